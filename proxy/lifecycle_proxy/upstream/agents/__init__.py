"""Agents as upstreams: programs that are started here and speak a protocol over their pipes."""
