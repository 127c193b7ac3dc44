"""Published caching methods, one frozen dataclass each."""

from __future__ import annotations

from l2c_rt.methods.toca import DuCa, ToCa

__all__ = ["DuCa", "ToCa"]
