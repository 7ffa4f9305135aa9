"""One exchange as it happens, the port of what follows it, and the words of HTTP around it."""
