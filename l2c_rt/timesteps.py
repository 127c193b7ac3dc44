"""Reading the timestep that a loop passes: at once on the host, later on a GPU.

A timestep on a GPU is compared there.  Its verdict is copied to pinned memory behind the work that
is queued anyway, and read at a later call, so that no call ever waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l2c_rt.steps import StepError


def host_timestep(t: Any) -> float | None:
    """The timestep as a number, or None where reading it would wait for a device."""
    if not isinstance(t, Tensor):
        return float(t)
    if t.device.type != "cpu":
        return None
    flat = t.reshape(-1)
    if flat.numel() > 1 and not bool((flat == flat[0]).all()):
        raise StepError(
            f"timesteps differ within one batch ({float(flat.min()):g} to {float(flat.max()):g}); "
            "a run has one timestep per evaluation"
        )
    return float(flat[0])


class DeferredCheck:
    """The checks of StepClock for timesteps that live on a device.

    `timesteps` [S] are what a run must pass.  Without them the first complete run is remembered,
    and until then a timestep that rises inside a run, or differs within a batch, is a misfit.
    A misfit drops what was remembered: the run that showed it may have been the odd one.
    """

    def __init__(self, steps: int, timesteps: Sequence[float] | None, device: torch.device) -> None:
        self.device = device
        self._given = timesteps is not None
        self._wanted: Tensor | None = None
        if timesteps is not None:
            self._wanted = torch.tensor(timesteps, dtype=torch.float64, device=device)
        self._seen = torch.zeros(steps, dtype=torch.float64, device=device)
        self._host = torch.empty(3, dtype=torch.float64, pin_memory=device.type == "cuda")
        self.clear()

    def clear(self) -> None:
        """Forget what a run that was reset has shown."""
        self._first_misfit = torch.full((3,), -1.0, dtype=torch.float64, device=self.device)
        self._copied: torch.cuda.Event | None = None
        self._pending = False

    def add(self, t: Tensor, step: int) -> None:
        """Queue the check of one call."""
        values = t.reshape(-1).to(torch.float64)
        got = values[0]
        misfit = (values != got).any()
        wanted = got
        if self._wanted is not None:
            wanted = self._wanted[step]
            misfit = misfit | ~torch.isclose(got, wanted, rtol=1e-4, atol=1e-6)
        elif step > 0:
            wanted = self._seen[step - 1]
            # At step 1 the same timestep again is a run that began anew after one call.
            misfit = misfit | (got >= wanted if step == 1 else got > wanted)
        self._seen[step] = got
        here = torch.stack([torch.full_like(got, step), wanted, got])
        first = misfit & (self._first_misfit[0] < 0)
        self._first_misfit = torch.where(first, here, self._first_misfit)
        self._host.copy_(self._first_misfit, non_blocking=True)
        self._pending = True
        if self.device.type == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def remember(self) -> None:
        """A run is complete: later runs must pass the same timesteps."""
        if self._wanted is None:
            self._wanted = self._seen.clone()

    def forget(self) -> None:
        """Accept another loop, unless the timesteps were given."""
        if not self._given:
            self._wanted = None

    def raise_if_bad(self) -> None:
        """Raise StepError for a misfit that the device has reported by now."""
        if not self._pending:
            return
        if self._copied is not None and not self._copied.query():  # type: ignore[no-untyped-call]
            return
        step, wanted, got = self._host.tolist()
        if step < 0:
            return
        self.clear()
        self.forget()
        raise StepError(
            f"step {step:.0f}: expected timestep {wanted:g}, got {got:g} (found on the GPU after "
            "the call). The run was reset; pass timesteps= or call reset() before each run"
        )
