"""Recordings for people: show, page, HAR, imports, scan, drift."""
