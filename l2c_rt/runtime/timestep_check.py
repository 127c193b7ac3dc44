"""Reading the timestep that a loop passes: at once on the host, later on a GPU.

In a run that is known to be the loop, a timestep on a GPU is compared there.  Its verdict is copied
to pinned memory behind the work that is queued anyway, and read at a later call, so that no such
call ever waits.
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
from l2c_rt.runtime.cache_context import NO_HINT, StepHint
from l2c_rt.runtime.calls import Relation, StepError, Tick
from l2c_rt.runtime.lineage import Lineage
from l2c_rt.runtime.step_clock import StepClock


def host_timestep(t: Any) -> float:
    """The timestep as a number.  Waits for the device that it is on."""
    if not isinstance(t, Tensor):
        return float(t)
    flat = t.reshape(-1)
    if flat.numel() > 1 and not bool((flat == flat[0]).all()):
        raise StepError(
            f"timesteps differ within one batch ({float(flat.min()):g} to {float(flat.max()):g}); "
            "a run has one timestep per evaluation"
        )
    return float(flat[0])


def on_host(t: Any) -> bool:
    """Whether the timestep can be read without waiting."""
    return not isinstance(t, Tensor) or t.device.type == "cpu"


class TimestepCheck:
    """Places every call in its run: by timestep and latents at once, or by a later verdict.

    Only the first call of a run waits for a device, and every call of a run that is not trusted.
    """

    def __init__(self, clock: StepClock) -> None:
        self._clock = clock
        self._deferred: DeferredCheck | None = None
        self._run, self._run_before = Lineage(), Lineage()
        self._input: Tensor | None = None

    def tick(self, t: Any, hint: StepHint, x: Tensor) -> Tick:
        """Raises StepError for a call that does not fit, or for an earlier one on a device."""
        clock = self._clock
        if self._deferred is not None:
            self._deferred.raise_if_bad()
        if t is None:
            return self._without_timestep(hint, x)
        host = on_host(t)
        if host and hint == NO_HINT:
            known = clock.tick_known(host_timestep(t))
            if known is not None:
                return known
        latents = _LatentsOf(x, self._run, self._run_before)
        if host or not (capturing(x.device) or (clock.mid_run and clock.trusted)):
            tick = clock.tick(host_timestep(t), *hint[:3], latents)
        else:
            tick = clock.tick(None, *hint[:3], latents)
            self._check_later(t, tick.step)
        return self._placed(tick, x)

    def _without_timestep(self, hint: StepHint, x: Tensor) -> Tick:
        """The model has no timestep: calls are counted, and only their latents tell of runs."""
        self._clock.has_timesteps = False
        latents = _LatentsOf(x, self._run, self._run_before)
        return self._placed(self._clock.tick(None, *hint[:3], latents), x)

    def _placed(self, tick: Tick, x: Tensor) -> Tick:
        if tick.first:
            self._run, self._run_before = Lineage(), self._run
        self._input = None if self._clock.trusted or capturing(x.device) else x
        return tick

    def done(self, step: int, to_tensor: Callable[[Any], Tensor], out: Any) -> None:
        """The call just placed has succeeded; at the end of a run, say what was found by now."""
        if self._input is not None:
            self._run.add(step, self._input, to_tensor(out))
            self._input = None
        if self._clock.done() and self._deferred is not None:
            self._deferred.raise_if_bad()

    def reset(self, *, forget_timesteps: bool) -> None:
        """Forget the run under way, and with `forget_timesteps` the loop it is checked against."""
        self._clock.reset(forget_timesteps=forget_timesteps)
        self._input = None
        if self._deferred is not None:
            self._deferred.clear()

    def _check_later(self, t: Tensor, step: int) -> None:
        timesteps = self._clock.timesteps
        # Inside a capture, whose replays nobody counts, nothing is checked, made or copied.
        if timesteps is None or capturing(t.device):
            return
        deferred = self._deferred
        if deferred is None or deferred.device != t.device or deferred.timesteps != timesteps:
            self._deferred = deferred = DeferredCheck(timesteps, t.device)
        deferred.add(t, step)


class _LatentsOf:
    """What the input of a call shows, looked at only where it is asked for."""

    def __init__(self, x: Tensor, run: Lineage, run_before: Lineage) -> None:
        self._x, self._run, self._run_before = x, run, run_before
        self._to_run: Relation | None = None

    def to_run(self) -> Relation:
        if self._to_run is None:
            self._to_run = self._relation(self._run)
        return self._to_run

    def to_run_before(self) -> Relation:
        return self._relation(self._run_before)

    def _relation(self, lineage: Lineage) -> Relation:
        # Nothing can be read inside a capture.
        return "foreign" if capturing(self._x.device) else lineage.relation(self._x)


def capturing(device: torch.device) -> bool:
    """Whether the current stream is being captured into a graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class DeferredCheck:
    """The checks of StepClock for timesteps that live on a device.

    `timesteps` [S] are what a run must pass.  Calls may come from any stream and with any current
    device.
    """

    def __init__(self, timesteps: Sequence[float], device: torch.device) -> None:
        self.timesteps, self.device = tuple(timesteps), device
        self._order = StreamOrder(device, replays=False)
        steps, pinned = len(self.timesteps), device.type == "cuda"
        known = torch.empty(steps, dtype=torch.float64, device="cpu", pin_memory=pinned)
        known.copy_(torch.tensor(self.timesteps, dtype=torch.float64, device="cpu"))
        with self._on_device():
            self._expected = torch.empty(steps, dtype=torch.float64, device=device)
            # From pinned memory: a copy from other memory waits.
            self._expected.copy_(known, non_blocking=True)
            self._verdict = torch.empty(3, dtype=torch.float64, device=device)
        self._check = _check_for(device)
        self._host = torch.empty(3, dtype=torch.float64, device="cpu", pin_memory=pinned)
        self.clear()

    def clear(self) -> None:
        """Forget what a run that was reset has shown; nothing is launched, as in a capture."""
        self._copied: torch.cuda.Event | None = None
        self._pending = self._begun = False

    def add(self, t: Tensor, step: int) -> None:
        """Queue the check of one call.  Not inside a capture."""
        with self._on_device():
            if not self._begun:
                # In place: memory given back might be another stream's while this one reads it.
                self._verdict.fill_(-1.0)
                self._begun = True
            self._check(t, step, self._expected, self._verdict)
            self._host.copy_(self._verdict, non_blocking=True)
            self._pending = True
            if self.device.type == "cuda":
                self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
                self._copied.record()

    def raise_if_bad(self) -> None:
        """Raise StepError for a misfit that the device has reported by now."""
        if not self._pending or capturing(self.device):
            return
        if self._copied is not None and not self._copied.query():  # type: ignore[no-untyped-call]
            return
        step, expected, got = self._host.tolist()
        if step < 0:
            return
        self.clear()
        raise StepError(
            f"step {step:.0f}: expected timestep {expected:g}, got {got:g} (found on the GPU after "
            "the call). The run was reset; call reset() before a run that begins over another, and "
            "compile with the timesteps of this loop"
        )

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        with on(self.device), self._order():
            yield


Check = Callable[[Tensor, int, Tensor, Tensor], None]


def _check_for(device: torch.device) -> Check:
    """One kernel where Triton has one; the same in PyTorch's operations elsewhere."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        found: Check = importlib.import_module("l2c_rt.kernels.check_timestep").check_timestep
        return found
    return check_timestep


def check_timestep(t: Tensor, step: int, expected: Tensor, verdict: Tensor) -> None:
    """What the kernel of that name does, and where it says what."""
    values = t.reshape(-1).to(torch.float64)
    got, wanted = values[0], expected[step]
    misfit = (values != got).any() | ~torch.isclose(got, wanted, rtol=1e-4, atol=1e-6)
    first_misfit = torch.stack([torch.full_like(got, step), wanted, got])
    verdict.copy_(torch.where(misfit & (verdict[0] < 0), first_misfit, verdict))
