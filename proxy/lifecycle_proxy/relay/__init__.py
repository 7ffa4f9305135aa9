"""From the upstream to the client: bodies, event streams, WebSockets, the watchdog."""
