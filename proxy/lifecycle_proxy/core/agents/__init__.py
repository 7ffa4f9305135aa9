"""Agents' protocols as chat completions: what an agent reports, in, chunks, out.

A reader turns the messages of one protocol into pieces (``pieces``): text, and the beginning and
the end of each tool call. ``chunks`` writes pieces as a chat completions stream, or as one
completion. From there on an agent's stream is a stream like any other: the pipeline observes it,
and the client gets lifecycle events in its dialect.
"""
