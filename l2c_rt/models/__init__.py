"""Own, lean model definitions whose parameter names are the published ones."""

from l2c_rt.models.dit import CONFIGS, DiT, DiTConfig, dit

__all__ = ["CONFIGS", "DiT", "DiTConfig", "dit"]
