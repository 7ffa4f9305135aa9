"""How responses are had from the upstream."""
