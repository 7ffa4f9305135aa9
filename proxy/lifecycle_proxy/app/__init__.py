"""The composition root: builds the ports, registers listeners, serves."""
