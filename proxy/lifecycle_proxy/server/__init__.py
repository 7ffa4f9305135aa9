"""Listening: sockets, the protocol of client connections, worker processes."""
