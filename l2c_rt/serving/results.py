"""Which requests may be served from finished ones.

`ApproximateResults` is error-controlled as in approximate-key caching, arXiv 2112.06671: what an
entry serves is recomputed at growing intervals and compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from l2c_rt.serving.intake import Asked


@dataclass(frozen=True, slots=True)
class ExactResults:
    """Serve a request from an earlier one of the same noise, conditioning, scale and weights.

    At most `max_bytes` are held; what was asked for longest ago goes first.
    """

    max_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        _check_bytes(self.max_bytes)


@dataclass(frozen=True, slots=True)
class ApproximateResults:
    """Serve a request from an earlier one whose `key` is at most `tolerance` away.

    `key(asked)` gives an embedding [d], of whatever the user takes for the same picture; distances
    are Euclidean.  Shape, dtype, cfg_scale and weights must be equal.  The first request that an
    entry could serve is computed, and so are later ones at intervals that grow by `growth`; where
    the entry is further than `bound` from what that gives, |difference| / |latents|, it is dropped.
    """

    key: Callable[[Asked], Tensor]
    tolerance: float
    bound: float
    growth: float = 2.0
    max_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        _check_bytes(self.max_bytes)
        for name, least in (("tolerance", 0.0), ("bound", 0.0), ("growth", 1.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ValueError(
                    f"ApproximateResults: {name} must be finite and at least {least:g}, got {value}"
                )


def _check_bytes(max_bytes: int) -> None:
    if not isinstance(max_bytes, int) or max_bytes < 1:
        raise ValueError(f"results: max_bytes must be a whole number from 1 on, got {max_bytes!r}")
