"""PAB: the outputs of attention modules are broadcast to the following evaluations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from l2c_rt.methods.checks import check_int, check_window, set_patterns
from l2c_rt.plan.program import BlockProgram
from l2c_rt.policies.policy import full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule

if TYPE_CHECKING:
    from torch import nn

Window = tuple[float, float]
TRAINED_TIMESTEPS = 1000
ATTENTION = re.compile(r"attn|attention")
CROSS = "cross"


@dataclass(frozen=True, slots=True)
class PAB:
    """Reuses the outputs of attention modules, each kind with its own range and window.

    At evaluation n with timestep t, a module of a kind with range N computes where n = 0, where t
    is outside its window (lo < t < hi, both ends strict), and where n % N == 0; n counts every
    evaluation, also those outside the window, which are kept too.  Kept is the whole output of the
    module, both streams of a joint attention.  A kind with the range None is computed; where all
    are None, the spatial range is 2, as published.
    Cross attention is what the model's module calls so (`is_cross_attention`); temporal attention
    lies in blocks whose path says temporal; all other is spatial.
    `..._attention_block_identifiers` are regular expressions that are searched for in the paths of
    modules, spatial first, in place of that, for attention that is not cross or that is; diffusers'
    own defaults for spatial ones match those in temporal blocks too.
    Needs `timesteps=` of `compile`, on the scale 0..1000 of training, or as sigmas 0..1.
    Calls for cond and uncond: diffusers has one counter and one output per module, so that two
    calls per step advance it by two, and the uncond call is handed cond's output.  With
    calls_per_step=2 each call has a count and an output of its own; give every timestep twice and
    calls_per_step=1 for what diffusers does.
    Source: Pyramid Attention Broadcast, arXiv 2408.12588; diffusers 0.42.1,
    PyramidAttentionBroadcastConfig, whose field names and defaults these are.
    """

    spatial_attention_block_skip_range: int | None = None
    temporal_attention_block_skip_range: int | None = None
    cross_attention_block_skip_range: int | None = None
    spatial_attention_timestep_skip_range: Window = (100, 800)
    temporal_attention_timestep_skip_range: Window = (100, 800)
    cross_attention_timestep_skip_range: Window = (100, 800)
    spatial_attention_block_identifiers: Sequence[str] | None = None
    temporal_attention_block_identifiers: Sequence[str] | None = None
    cross_attention_block_identifiers: Sequence[str] | None = None

    tells_kinds_apart = True
    """A model's other branches are computed."""
    needs_timesteps: ClassVar[bool] = True
    """This method plans by the timesteps of the run."""

    def __post_init__(self) -> None:
        for kind in ("spatial", "temporal", CROSS):
            every = getattr(self, f"{kind}_attention_block_skip_range")
            if every is not None:
                check_int(f"PAB: {kind}_attention_block_skip_range", every, 1)
            window = f"{kind}_attention_timestep_skip_range"
            check_window(f"PAB: {window}", getattr(self, window))
            set_patterns("PAB", self, f"{kind}_attention_block_identifiers")

    @property
    def tells_paths_apart(self) -> bool:
        """Branches are to be named by the paths of their modules."""
        return any(self._identifiers().values())

    def ranges(self) -> dict[str, tuple[int, Window]]:
        """By kind: the range, and its window of timesteps."""
        every = {
            "spatial": self.spatial_attention_block_skip_range,
            "temporal": self.temporal_attention_block_skip_range,
            CROSS: self.cross_attention_block_skip_range,
        }
        if not any(every.values()):
            every["spatial"] = 2
        return {
            kind: (n, getattr(self, f"{kind}_attention_timestep_skip_range"))
            for kind, n in every.items()
            if n is not None
        }

    def _identifiers(self) -> dict[str, Sequence[str] | None]:
        return {
            "spatial": self.spatial_attention_block_identifiers,
            "temporal": self.temporal_attention_block_identifiers,
            CROSS: self.cross_attention_block_identifiers,
        }

    def sites(self, model: nn.Module) -> tuple[str, ...] | None:
        """The attention modules of a model's blocks, those that no other attention contains."""
        found: list[str] = []
        for path in _attention_modules(model):
            if not any(path.startswith(f"{outer}.") for outer in found):
                found.append(path)
        return tuple(found) or None

    def schedule(
        self,
        steps: int,
        branches: tuple[str, ...],
        *,
        timesteps: Sequence[float] | None = None,
        program: BlockProgram | None = None,
    ) -> CacheSchedule:
        if timesteps is None:
            raise ValueError(
                "PAB: its windows are of timesteps; give compile those of the run: "
                "timesteps=scheduler.timesteps"
            )
        scale = TRAINED_TIMESTEPS if max(timesteps) <= 1 else 1
        compute = full_table(steps, branches)
        ranges = self.ranges()
        identifiers = {k: v for k, v in self._identifiers().items() if k in ranges}
        kinds = [kind_named(name, program, identifiers) for name in branches]
        missing = sorted(set(ranges) - set(kinds))
        if missing:
            raise ValueError(
                f"PAB: the model has no {', '.join(missing)} attention, but of the kinds "
                f"{', '.join(sorted(filter(None, set(kinds)))) or 'none'}; leave its range None"
            )
        for kind, (every, (low, high)) in ranges.items():
            reused = [n for n, t in enumerate(timesteps) if n % every and low < t * scale < high]
            compute[np.ix_(reused, [k == kind for k in kinds])] = False
        ranged = ", ".join(f"{kind} {every}" for kind, (every, _) in ranges.items())
        return CacheSchedule(
            compute, branches, source=f"PAB, {ranged}", timesteps=tuple(map(float, timesteps))
        )


def kind_of(name: str, program: BlockProgram | None) -> str | None:
    """spatial, temporal or cross, or None where a branch is no attention."""
    kinds = {} if program is None else {branch.name: branch.kind for branch in program.branches}
    kind = kinds.get(name, name)
    if not ATTENTION.search(kind):
        return None
    if CROSS in kind:
        return CROSS
    return "temporal" if "temp" in f"{name} {kind}" else "spatial"


def kind_named(
    name: str, program: BlockProgram | None, identifiers: Mapping[str, Sequence[str] | None]
) -> str | None:
    """The first kind of `identifiers` whose patterns are found in the name, or, where it has none,
    that the branch is of."""
    own = kind_of(name, program)
    for kind, patterns in identifiers.items():
        if own is None or (kind == CROSS) != (own == CROSS):
            continue
        if kind == own if patterns is None else any(re.search(p, name) for p in patterns):
            return kind
    return None


def _attention_modules(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        parents = path.split(".")
        in_list = any(part.isdecimal() for part in parents[:-1])
        if in_list and ATTENTION.match(parents[-1]) and any(module.children()):
            yield path
