"""Recordings as a server: which one answers, and when."""
