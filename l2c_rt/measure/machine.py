"""The device that a command times on: its clock and its name.  Settings are only read."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Clock = Callable[[Callable[[], Any]], float]
"""Seconds of one call, the device's work included."""

QUERY = ("driver_version", "clocks.sm", "clocks.max.sm", "power.limit")


def stopwatch(device: torch.device) -> Clock:
    """CUDA events on a GPU, the host's clock elsewhere."""
    return event_seconds if device.type == "cuda" else host_seconds


def host_seconds(run: Callable[[], Any]) -> float:
    """Of work that is done when the call returns."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def event_seconds(run: Callable[[], Any]) -> float:
    """Between two CUDA events around the call, nothing else queued before."""
    import torch

    torch.cuda.synchronize()
    event: Callable[..., Any] = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


def machine(device: torch.device) -> dict[str, Any]:
    """{"device": what it is}: of a GPU its name, driver, clocks and power limit as they are now."""
    if device.type != "cuda":
        return {"device": {"name": str(device)}}
    import torch

    return {"device": {"name": torch.cuda.get_device_name(device), **_nvidia_smi(device)}}


def _nvidia_smi(device: torch.device) -> dict[str, str]:
    import torch

    index = torch.cuda.current_device() if device.index is None else device.index
    properties = torch.cuda.get_device_properties(index)
    # Not the index, which CUDA_VISIBLE_DEVICES may have changed.
    which = str(getattr(properties, "uuid", index))
    chosen = which if which.isdigit() else f"GPU-{which}"
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"]
    try:
        out = subprocess.run(
            [*command, f"--id={chosen}"], capture_output=True, text=True, check=True, timeout=20
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(QUERY, (value.strip() for value in out.split(",")), strict=False))
