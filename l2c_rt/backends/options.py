"""What a user may ask of the fused backends."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from l2c_rt.device.capture_places import CapturePlaces

GRAPHS = ("step", "trajectory", "off")


@dataclass(frozen=True, slots=True)
class Options:
    """How runs are launched and kept.

    `graph` is "step" (a graph per distinct row), "trajectory" (a graph per run of `sample`) or
    "off"; `residual_dtype` is the residual stream's, None for the model's own; `table_bytes` caps
    the modulation table of a session, which covers fewer steps at a time where it is too small.
    With `forgiving`, what cannot be captured is launched kernel by kernel and noted.  With `merge`,
    neighbouring blocks that are always reused together are kept as one.  With `check` the first run
    of a shape on a machine compares every kernel with its meaning.  With `pack`, linears on a CPU
    may take copies of their weights in the layout of a faster product; `precision` is "bf16" for
    the products of a float32 model there, "fp8" for those of a bfloat16 model's branches on a GPU,
    None for its own.  With `delta_form`, evaluations that need fewer products for it are run as
    their difference to an earlier one.  `places` are where the graphs of the compiled model are
    captured, also after its weights have changed.
    """

    graph: str = "step"
    residual_dtype: torch.dtype | None = None
    tune: bool = True
    table_bytes: int = 1 << 30
    forgiving: bool = False
    merge: bool = True
    check: bool = True
    pack: bool = True
    precision: str | None = None
    delta_form: bool = False
    places: CapturePlaces = field(default_factory=CapturePlaces, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.graph not in GRAPHS:
            raise ValueError(f"graph: got {self.graph!r}, wanted one of {', '.join(GRAPHS)}")
        if self.precision not in (None, "bf16", "fp8"):
            raise ValueError(f'precision: got {self.precision!r}, wanted "bf16", "fp8" or None')
        if self.residual_dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(
                f"residual_dtype: got {self.residual_dtype}, wanted torch.float32, torch.bfloat16, "
                "torch.float16 or None"
            )
