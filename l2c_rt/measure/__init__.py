"""Measuring: the machine, interleaved timing, ceilings of memory and arithmetic."""
