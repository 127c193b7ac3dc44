"""FasterCache: attention extrapolated, and the unconditional half of the batch recovered."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from l2c_rt.methods.checks import (
    check_bool,
    check_callback,
    check_names,
    check_number,
    set_patterns,
)
from l2c_rt.methods.pab import PAB, kind_named
from l2c_rt.methods.timesteps import Window, checked_window, in_window, trained_timesteps
from l2c_rt.plan.program import BlockProgram
from l2c_rt.policies.policy import BoolArray, full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.halves import HALVED, HalfSchedule
from l2c_rt.schedule.predictions import Predictions

if TYPE_CHECKING:
    from torch import nn

Floats = npt.NDArray[np.float64]
TENSOR_FORMATS = ("BCFHW", "BFCHW", "BCHW")


@dataclass(frozen=True, slots=True)
class FasterCache:
    """diffusers' form of FasterCache; both parts decide by the timestep and by counts.

    CFG cache: at evaluation n > 0 with lo < t < hi and n % unconditional_batch_skip_range != 0 only
    the conditional half of the batch is run, and the unconditional one is
    Re ifft2(fft2(cond) + d), frame by frame, where d is uncond - cond in the spectrum at the last
    whole evaluation.  First d's low frequencies, a disc of a fifth of the shorter side, are
    multiplied by alpha_low_frequency where t is in its window, and the others by
    alpha_high_frequency in theirs, at each evaluation again.
    Attention: where the half is left out, or the model `is_guidance_distilled`, and t is in the
    window, a spatial attention is computed if n % spatial_attention_block_skip_range == 0, and else
    its output is new + attention_weight * (new - old), of the conditional rows of its outputs at
    the two evaluations before, computed or not; evaluation 0 stands for the one before it too.
    `temporal_...` is the same for attention in temporal blocks, and None leaves it computed;
    `..._identifiers` tell the two apart as those of `PAB` do.

    Keeps: two outputs of each attention, of the conditional rows, and one spectrum.
    Needs: `timesteps=` of `compile` (0..1000, or sigmas 0..1), and cond and uncond in one batch,
    unconditional first, or a model without guidance (`is_guidance_distilled`).
    In place of `attention_weight` and of the two alphas with their windows a function may say each
    weight: `attention_weight_callback(path of the attention, timestep)`, and
    `low_frequency_weight_callback(timestep)`, `high_frequency_weight_callback(timestep)`.  They are
    called before the run, with timesteps 0..1000, once for each weight that the run needs; those
    of diffusers are given the module in the run.
    `tensor_format` names the output's dimensions, which end in H and W.  Positional tensors with
    the batch's rows are halved, and keyword ones of the names in `halved_arguments`.
    Source: FasterCache, arXiv 2410.19355; diffusers 0.42.1, FasterCacheConfig, whose names and
    defaults these are.
    Raises ValueError for values out of range.
    """

    spatial_attention_block_skip_range: int | None = 2
    temporal_attention_block_skip_range: int | None = None
    spatial_attention_timestep_skip_range: Window = (-1, 681)
    temporal_attention_timestep_skip_range: Window = (-1, 681)
    low_frequency_weight_update_timestep_range: Window = (99, 901)
    high_frequency_weight_update_timestep_range: Window = (-1, 301)
    alpha_low_frequency: float = 1.1
    alpha_high_frequency: float = 1.1
    unconditional_batch_skip_range: int = 5
    unconditional_batch_timestep_skip_range: Window = (-1, 641)
    attention_weight: float = 0.5
    attention_weight_callback: Callable[[str, float], float] | None = None
    low_frequency_weight_callback: Callable[[float], float] | None = None
    high_frequency_weight_callback: Callable[[float], float] | None = None
    tensor_format: str = "BCFHW"
    is_guidance_distilled: bool = False
    spatial_attention_block_identifiers: Sequence[str] | None = None
    temporal_attention_block_identifiers: Sequence[str] | None = None
    uncond_first: bool = True
    halved_arguments: tuple[str, ...] = HALVED

    needs_timesteps: ClassVar[bool] = True
    """This method plans by the timesteps of the run."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name.endswith("timestep_skip_range") or name.endswith("update_timestep_range"):
                checked_window(f"FasterCache: {name}", value)
            elif name.endswith("skip_range"):
                _check_range(name, value, optional="attention" in name)
            elif name.endswith("identifiers"):
                set_patterns("FasterCache", self, name)
            elif name.startswith("alpha") or name == "attention_weight":
                check_number(f"FasterCache: {name}", value, -math.inf)
            elif name.endswith("callback"):
                check_callback(f"FasterCache: {name}", value)
            elif name in ("is_guidance_distilled", "uncond_first"):
                check_bool(f"FasterCache: {name}", value)
        check_names("FasterCache: halved_arguments", self.halved_arguments)
        if self.tensor_format not in TENSOR_FORMATS:
            raise ValueError(
                f"FasterCache: tensor_format is {self.tensor_format!r:.40}, wanted one of "
                f"{', '.join(TENSOR_FORMATS)}"
            )

    def schedule(
        self,
        steps: int,
        branches: tuple[str, ...],
        *,
        timesteps: Sequence[float] | None = None,
        program: BlockProgram | None = None,
    ) -> CacheSchedule:
        times = trained_timesteps("FasterCache", timesteps)
        halved = self._halved(times)
        low, high = self._weights(times, halved)
        halves = HalfSchedule(
            halved, low, high, bands=True, uncond_first=self.uncond_first,
            names=self.halved_arguments, dims=len(self.tensor_format),
        )  # fmt: skip
        extrapolated = self._extrapolated(times, halved, branches, program)
        return CacheSchedule(
            full_table(steps, branches) & ~extrapolated, branches, source="FasterCache",
            timesteps=tuple(map(float, timesteps or ())),
            predictions=self._predictions(extrapolated, times, branches),
            halves=None if self.is_guidance_distilled else halves,
        )  # fmt: skip

    @property
    def tells_paths_apart(self) -> bool:
        """Branches are to be named by the paths of their modules."""
        return bool(
            self.spatial_attention_block_identifiers
            or self.temporal_attention_block_identifiers
            or self.attention_weight_callback
        )

    def sites(self, model: nn.Module) -> tuple[str, ...] | None:
        """The attention modules of a model's blocks."""
        return PAB().sites(model)

    def _predictions(
        self, extrapolated: BoolArray, times: Floats, branches: tuple[str, ...]
    ) -> Predictions | None:
        terms: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for n, k in np.argwhere(extrapolated).tolist():
            w = self.attention_weight
            if self.attention_weight_callback is not None:
                w = self.attention_weight_callback(branches[k], float(times[n]))
                check_number("FasterCache: what attention_weight_callback gives", w, -math.inf)
            terms[n, k] = [(n - 1, 1 + w), (max(n - 2, 0), -w)]
        steps, width = extrapolated.shape
        return Predictions.from_terms(steps, width, terms) if terms else None

    def _extrapolated(
        self, times: Floats, halved: BoolArray, branches: tuple[str, ...],
        program: BlockProgram | None,
    ) -> BoolArray:  # fmt: skip
        """Which branches are not computed.  Shapes: [S, K]."""
        counts = np.arange(len(times))
        # A whole batch is always computed; evaluation 0 has nothing before it.
        may = (counts > 0) & (halved | self.is_guidance_distilled)
        table = np.zeros((len(times), len(branches)), np.bool_)
        ranges = {
            "spatial": (
                self.spatial_attention_block_skip_range,
                self.spatial_attention_timestep_skip_range,
            ),
            "temporal": (
                self.temporal_attention_block_skip_range,
                self.temporal_attention_timestep_skip_range,
            ),
        }
        identifiers = {
            kind: getattr(self, f"{kind}_attention_block_identifiers")
            for kind, (every, _) in ranges.items() if every is not None
        }  # fmt: skip
        for k, name in enumerate(branches):
            kind = kind_named(name, program, identifiers)
            every, window = ranges[kind] if kind is not None else (None, (0, 0))
            if every is not None:
                table[:, k] = may & in_window(times, window) & (counts % every != 0)
        return table

    def _halved(self, times: Floats) -> BoolArray:
        counts = np.arange(len(times))
        every = counts % self.unconditional_batch_skip_range != 0
        window = in_window(times, self.unconditional_batch_timestep_skip_range)
        halved: BoolArray = every & window & (counts > 0)
        return halved & (not self.is_guidance_distilled)

    def _weights(self, times: Floats, halved: BoolArray) -> tuple[Floats, Floats]:
        """What the low and the high frequencies of the kept difference are multiplied by."""
        low, high = (
            compounded(self._growth(band, times, halved), halved) for band in ("low", "high")
        )
        return low, high

    def _growth(self, band: str, times: Floats, halved: BoolArray) -> Floats:
        """What the frequencies of a band are multiplied by at each evaluation."""
        name = f"{band}_frequency_weight_callback"
        callback = getattr(self, name)
        if callback is None:
            window = getattr(self, f"{band}_frequency_weight_update_timestep_range")
            return np.where(in_window(times, window), getattr(self, f"alpha_{band}_frequency"), 1.0)
        factors = np.ones(len(times))
        for n in np.flatnonzero(halved).tolist():
            factor = callback(float(times[n]))
            check_number(f"FasterCache: what {name} gives", factor, -math.inf)
            factors[n] = factor
        return factors


def compounded(factors: Floats, halved: BoolArray) -> Floats:
    """The product of the factors since the last whole evaluation, which begins anew with 1."""
    products = np.ones(len(factors))
    for n in range(1, len(factors)):
        if halved[n]:
            products[n] = products[n - 1] * factors[n]
    return products


def _check_range(name: str, value: object, *, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"FasterCache: {name} is {value!r:.40}, wanted an int of at least 1")
