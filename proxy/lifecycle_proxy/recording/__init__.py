"""Recording and replay: what crosses the proxy, kept to the byte and the millisecond."""
