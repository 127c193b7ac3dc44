"""What a figure must say of the machine that it was measured on.  Settings are only read."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Facts = dict[str, Any]


def device_facts(device: torch.device) -> Facts:
    """The device's name; of a GPU also its size, and driver, clocks and power as they are now.

    What cannot be read is there as "unknown: REASON".
    """
    if device.type != "cuda":
        return {"name": str(device)}
    import torch

    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        # Not the index, which CUDA_VISIBLE_DEVICES may have changed.
        **driver_readings(f"GPU-{properties.uuid}"),
    }


def processor_name() -> str:
    """The processor's model where Linux tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def driver_readings(uuid: str) -> Facts:
    """What NVML says now of the GPU with that UUID.

    Where NVML cannot be asked the one entry is "driver", with the reason.
    """
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return {"driver": "unknown: nvidia-ml-py is not installed"}
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return {"driver": f"unknown: {error}"}
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        return {name: _read(nvml, read) for name, read in _readings(nvml, handle).items()}
    except nvml.NVMLError as error:
        return {"driver": f"unknown: {error}"}
    finally:
        nvml.nvmlShutdown()


def _readings(nvml: Any, handle: Any) -> dict[str, Callable[[], Any]]:
    return {
        "driver": nvml.nvmlSystemGetDriverVersion,
        "sm_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "sm_clock_limit_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
    }


def _read(nvml: Any, read: Callable[[], Any]) -> Any:
    """A reading, or why this GPU does not give it (a virtual one has no power limit)."""
    try:
        return read()
    except nvml.NVMLError as error:
        return f"unknown: {error}"
