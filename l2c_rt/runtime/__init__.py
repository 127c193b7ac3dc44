"""Runs of a compiled model: what they share, their steps, their slots, and what users hold."""
