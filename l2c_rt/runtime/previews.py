"""The callback of `sample`: it sees copies, and cannot change a run."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from l2c_rt.backends.backend import Callback
from l2c_rt.runtime.notices import Notices


class Previews:
    """Calls back, and refuses latents that come back: they would be dropped."""

    def __init__(self, callback: Callback, notices: Notices) -> None:
        if not callable(callback):
            raise TypeError(
                "sample: callback must be callable with (step, latents), got "
                f"{type(callback).__name__}"
            )
        self._callback: Callback = callback
        self._notices = notices

    def __call__(self, step: int, latents: Tensor) -> None:
        returned: object = self._callback(step, latents)
        if returned is latents:
            # As `lambda step, x: x.clamp_(-1, 1)` does without meaning anything by it.
            self._notices.tell(
                [
                    "the callback of sample() returned the latents that it was given; they are a "
                    "copy, and writing to them does not change the run"
                ]
            )
        elif _has_tensor(returned):
            raise TypeError(
                f"sample: the callback returned a {type(returned).__name__} at step {step}, but "
                "callbacks are for previews and cannot change the run; return None, or change the "
                "latents in a loop of your own"
            )


def _has_tensor(value: object) -> bool:
    """Whether it is a tensor or holds one, as diffusers' callback_on_step_end returns a dict."""
    if isinstance(value, Mapping):
        return any(isinstance(item, Tensor) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(isinstance(item, Tensor) for item in value)
    return isinstance(value, Tensor)
