"""What cache-dit's calibrators make of its methods: what is kept, and what is predicted from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from l2c_rt.methods.calibrators import foca, modes, taylor, without_modes
from l2c_rt.methods.deciding import Deciding
from l2c_rt.plan.decisions import At, Cut, Look
from l2c_rt.plan.mode_fit import ModeFit


class Place(NamedTuple):
    """Of an evaluation since everything began anew: its step, which of the step's calls it is, and
    the run's step at which its call began anew."""

    step: int
    call: int
    begun: int


class Calibrated(Deciding):
    """A method with these fields, which are those of the calibrators' configurations."""

    __slots__ = ()
    force_refresh_step_hint: int | None
    force_refresh_step_policy: Literal["once", "repeat"]
    taylorseer_order: int | None
    calibrator_type: Literal["taylorseer", "foca", "dmd"]
    calibrator_cache_type: Literal["residual", "hidden_states"]
    enable_calibrator: bool
    enable_encoder_calibrator: bool
    dmd_history: int
    dmd_rank: int
    dmd_ridge: float

    def cut_by(self, look: Look) -> Cut:
        """What is kept where that is looked at."""
        if not self.is_calibrated:
            return Cut(look)
        plain: Literal["", "image", "others"] = "" if self.enable_calibrator else "image"
        if not self.enable_encoder_calibrator:
            plain = "others"
        return Cut(look, keeps_outputs=self.calibrator_cache_type == "hidden_states", plain=plain)

    @property
    def is_calibrated(self) -> bool:
        """Whether what is reused is predicted."""
        enabled = self.enable_calibrator or self.enable_encoder_calibrator
        return enabled and (
            self.taylorseer_order is not None or self.calibrator_type != "taylorseer"
        )

    @property
    def history(self) -> int:
        if not self.is_calibrated:
            return 1
        known = {"foca": 2, "dmd": max(3, self.dmd_history)}
        return known.get(self.calibrator_type, 1 + (self.taylorseer_order or 0))

    @property
    def stores(self) -> int:
        return 2 if self.is_calibrated and self.calibrator_type == "foca" else 0

    def prediction(self, computed: tuple[int, ...], at: At) -> Mapping[int, float]:
        begun = self.place(at).begun
        if self.calibrator_type == "foca":
            return foca(tuple(s for s in computed if s >= begun), at.step)
        if self.is_along_modes:
            return without_modes(tuple(s for s in computed if s >= begun), at.step, begun)
        return taylor(computed, at.step, begun, self.history)

    def fit(self, computed: tuple[int, ...], at: At) -> ModeFit | None:
        if not (self.is_calibrated and self.is_along_modes):
            return None
        since = [step for step in computed if step >= self.place(at).begun][-self.dmd_history :]
        return modes(since, at.step, self.dmd_rank, self.dmd_ridge)

    @property
    def is_along_modes(self) -> bool:
        return self.calibrator_type == "dmd"

    def place(self, at: At) -> Place:
        """Of an evaluation since everything began anew."""
        call, hint = at.step * at.calls + at.call, self.force_refresh_step_hint
        first = 0
        if hint is not None and call >= hint:
            first = hint if self.force_refresh_step_policy == "once" else call // hint * hint
        step, number = divmod(call - first, at.calls)
        return Place(step, number, at.step - step)
