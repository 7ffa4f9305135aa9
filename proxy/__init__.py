"""A reverse proxy that adds tool lifecycle events to OpenAI-compatible streams."""

__version__ = "0.1.0"
