"""CUDA graphs of a model's own forward: of the whole of it, or of what lies between two reads."""
