"""Own, lean model definitions whose parameter names are the published ones."""

from l2c_rt.models.diffusers_folder import load_diffusers
from l2c_rt.models.dit import DiT, dit
from l2c_rt.models.load import load_dit, load_uvit
from l2c_rt.models.uvit import UViT, uvit

__all__ = ["DiT", "UViT", "dit", "load_diffusers", "load_dit", "load_uvit", "uvit"]
