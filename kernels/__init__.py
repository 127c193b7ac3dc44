"""Triton kernels of the fused path, one operation per file, installed as `l2c_rt.kernels`.

Nothing is imported here: only the kernel files need triton, and `reference` does not.
"""
