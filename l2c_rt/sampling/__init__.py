"""The published sampling loops: their solvers as tables of numbers, and the loops themselves."""
