"""Rows chosen at run time, by what a forward shows."""
