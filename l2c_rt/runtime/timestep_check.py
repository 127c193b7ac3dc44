"""Reading the timestep that a loop passes: at once on the host, later on a GPU.

A timestep on a GPU is compared there.  Its verdict is copied to pinned memory behind the work that
is queued anyway, and read at a later call, so that no call ever waits.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from l2c_rt.device.streams import StreamOrder, on
from l2c_rt.runtime.cache_context import StepHint
from l2c_rt.runtime.step_clock import StepClock, StepError, Tick


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


class TimestepCheck:
    """Places every call in its run: by its timestep at once, or by count and a later verdict."""

    def __init__(self, clock: StepClock) -> None:
        self._clock = clock
        self._deferred: DeferredCheck | None = None

    def tick(self, t: Any, hint: StepHint) -> Tick:
        """Raises StepError for a call that does not fit, or for an earlier one on a device."""
        if t is None:
            return self._clock.tick(None, *hint)
        value = host_timestep(t)
        if value is not None:
            return self._clock.tick(value, *hint)
        if self._deferred is None or self._deferred.device != t.device:
            steps, timesteps = self._clock.steps, self._clock.timesteps
            self._deferred = DeferredCheck(steps, timesteps, t.device)
        self._deferred.raise_if_bad()
        tick = self._clock.tick(None, *hint)
        self._deferred.add(t, tick.step)
        return tick

    def done(self) -> None:
        """The call just placed has succeeded; at the end of a run, say what was found by now."""
        if self._clock.done() and self._deferred is not None:
            self._deferred.remember()
            self._deferred.raise_if_bad()

    def reset(self, *, forget_timesteps: bool) -> None:
        """Forget the run under way, and with `forget_timesteps` the loop it is checked against."""
        self._clock.reset(forget_timesteps=forget_timesteps)
        if self._deferred is not None:
            self._deferred.clear()
            if forget_timesteps:
                self._deferred.forget()


class DeferredCheck:
    """The checks of StepClock for timesteps that live on a device.

    `timesteps` [S] are what a run must pass.  Without them the first complete run is remembered,
    and until then a timestep that rises inside a run, or differs within a batch, is a misfit.
    A misfit drops what was remembered: the run that showed it may have been the odd one.
    Calls may come from any stream and with any current device.  Inside a capture, whose replays
    nobody counts, nothing is checked.
    """

    def __init__(self, steps: int, timesteps: Sequence[float] | None, device: torch.device) -> None:
        self.device = device
        self._given = timesteps is not None
        self._order = StreamOrder(device, replays=False)
        self._expected: Tensor | None = None
        with self._on_device():
            if timesteps is not None:
                self._expected = torch.tensor(timesteps, dtype=torch.float64, device=device)
            self._seen = torch.zeros(steps, dtype=torch.float64, device=device)
            self._verdict = torch.empty(3, dtype=torch.float64, device=device)
        self._check = _check_for(device)
        self._host = torch.empty(
            3, dtype=torch.float64, device="cpu", pin_memory=device.type == "cuda"
        )
        self.clear()

    def clear(self) -> None:
        """Forget what a run that was reset has shown."""
        with self._on_device():
            # In place: memory given back might be another stream's while this one reads it.
            self._verdict.fill_(-1.0)
        self._copied: torch.cuda.Event | None = None
        self._pending = False

    def add(self, t: Tensor, step: int) -> None:
        """Queue the check of one call."""
        with self._on_device():
            if self._capturing():
                return
            self._check(t, step, self._expected, self._seen, self._verdict)
            self._host.copy_(self._verdict, non_blocking=True)
            self._pending = True
            if self.device.type == "cuda":
                self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
                self._copied.record()

    def remember(self) -> None:
        """A run is complete: later runs must pass the same timesteps."""
        if self._expected is None:
            with self._on_device():
                self._expected = self._seen.clone()

    def forget(self) -> None:
        """Accept another loop, unless the timesteps were given."""
        if not self._given:
            self._expected = None

    def raise_if_bad(self) -> None:
        """Raise StepError for a misfit that the device has reported by now."""
        if not self._pending or self._capturing():
            return
        if self._copied is not None and not self._copied.query():  # type: ignore[no-untyped-call]
            return
        step, expected, got = self._host.tolist()
        if step < 0:
            return
        self.clear()
        self.forget()
        raise StepError(
            f"step {step:.0f}: expected timestep {expected:g}, got {got:g} (found on the GPU after "
            "the call). The run was reset; pass timesteps= or call reset() before each run"
        )

    def _capturing(self) -> bool:
        return self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        with on(self.device), self._order():
            yield


Check = Callable[[Tensor, int, Tensor | None, Tensor, Tensor], None]


def _check_for(device: torch.device) -> Check:
    """One kernel where Triton has one; the same in PyTorch's operations elsewhere."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        found: Check = importlib.import_module("l2c_rt.kernels.check_timestep").check_timestep
        return found
    return check_timestep


def check_timestep(
    t: Tensor, step: int, expected: Tensor | None, seen: Tensor, verdict: Tensor
) -> None:
    """What the kernel of that name does, and where it says what."""
    values = t.reshape(-1).to(torch.float64)
    got = values[0]
    misfit = (values != got).any()
    limit = got
    if expected is not None:
        limit = expected[step]
        misfit = misfit | ~torch.isclose(got, limit, rtol=1e-4, atol=1e-6)
    elif step > 0:
        limit = seen[step - 1].clone()
        misfit = misfit | (got >= limit if step == 1 else got > limit)
    seen[step] = got
    first_misfit = torch.stack([torch.full_like(got, step), limit, got])
    verdict.copy_(torch.where(misfit & (verdict[0] < 0), first_misfit, verdict))
