"""Fault injection: rules, a plan for each exchange, what becomes of the bytes."""
