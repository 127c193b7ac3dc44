"""The fused backend on a CPU."""
