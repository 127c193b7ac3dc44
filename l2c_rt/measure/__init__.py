"""Measuring: clocks, interleaved timing, the ceilings of memory and arithmetic, the machine.

Standard library and torch only: the CLI, the demo and bench/ stand on it, and it on none of ours.
"""
