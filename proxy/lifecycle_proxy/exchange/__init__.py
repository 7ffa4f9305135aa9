"""One exchange as it happens, the interface of its listeners, and parts of HTTP that all need."""
