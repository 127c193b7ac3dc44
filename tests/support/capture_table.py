"""What of a forward a CUDA graph cannot repeat, found without a GPU.

`meta` stands for the GPU: what the forward moves there from the host shows, and what it reads there
ends it.  On the host the forward goes on after a read, so that all of them show.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable
from unittest import mock

import torch
from diffusers_families import Family
from torch import nn

from l2c_rt.adapters.own.meta_twin import without_data
from l2c_rt.adapters.own.modes import run_inside
from l2c_rt.backends.graphs.capture_watch import CaptureWatch


class Notes(CaptureWatch):
    """Notes what a capture would end at, and goes on."""

    def __init__(self, device_type: str) -> None:
        super().__init__(device_type)
        self.texts: set[str] = set()

    def _raise(self, text: str) -> None:
        self.texts.add(re.sub(r":\d+\)", ")", text))


class NoAutocast(contextlib.nullcontext[None]):
    """There is none on meta."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()


def not_repeatable(family: Family, model: nn.Module) -> set[str]:
    """Of a second call of the forward: what it has cached at the first one is there."""
    arguments = family.at(0)
    with torch.no_grad():
        model(**arguments)
        on_host = Notes("cpu")
        run_inside(on_host.modes(), lambda: model(**arguments))
        # What `.to` moves; other tensors that modules hold stay on the host.
        moved, given = copy.deepcopy(model).to("meta"), without_data(arguments)
        with mock.patch("torch.autocast", NoAutocast), mock.patch("torch.amp.autocast", NoAutocast):
            on_device = _notes_of(lambda: moved(**given), 2)
    return on_host.texts | on_device


def _notes_of(work: Callable[[], object], times: int) -> set[str]:
    notes = Notes("meta")
    for _ in range(times):
        notes.texts.clear()
        try:
            run_inside(notes.modes(), work)
        except Exception as error:
            # Any: what reads a value there has no way to go on.
            if not notes.texts:
                notes.texts.add(f"stopped on meta: {type(error).__name__}: {error!s:.90}")
            break
    return notes.texts
