"""Bytes from strangers: read within bounds, never executed."""
