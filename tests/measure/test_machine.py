"""What is said of the device that was measured on."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from l2c_rt.measure.machine import device_facts, processor_name

GPU = torch.device("cuda", 0)


class NVMLError(Exception):
    pass


def fake_nvml(**calls: Any) -> SimpleNamespace:
    """nvidia-ml-py on a machine with one GPU; it must be shut down as often as it was started."""

    def handle_of(uuid: str) -> str:
        assert uuid == "GPU-1-2"
        return "the handle"

    nvml = SimpleNamespace(
        NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0, open=0,
        nvmlDeviceGetHandleByUUID=handle_of,
        nvmlSystemGetDriverVersion=lambda: "580.1",
        nvmlDeviceGetClockInfo=lambda handle, clock: {1: 345, 2: 2619}[clock],
        nvmlDeviceGetMaxClockInfo=lambda handle, clock: 1980,
        nvmlDeviceGetPowerUsage=lambda handle: 120_500,
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 700_000,
        nvmlDeviceGetTemperature=lambda handle, sensor: 41,
    )  # fmt: skip
    nvml.nvmlInit = lambda: setattr(nvml, "open", nvml.open + 1)
    nvml.nvmlShutdown = lambda: setattr(nvml, "open", nvml.open - 1)
    vars(nvml).update(calls)
    return nvml


def refuse(*_: object) -> Any:
    raise NVMLError("Not Supported")


@pytest.fixture(autouse=True)
def _a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(
        name="a GPU", uuid="1-2", major=9, minor=0, multi_processor_count=132, total_memory=80
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


SIZE = {"name": "a GPU", "capability": "9.0", "multiprocessors": 132, "memory_bytes": 80}


def test_a_gpu_says_its_size_driver_clocks_and_power(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert device_facts(GPU) == SIZE | {
        "driver": "580.1", "sm_clock_mhz": 345, "sm_clock_limit_mhz": 1980,
        "memory_clock_mhz": 2619, "power_w": 120.5, "power_limit_w": 700.0, "temperature_c": 41,
    }  # fmt: skip
    assert nvml.open == 0


def test_a_reading_that_a_gpu_does_not_give_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml(nvmlDeviceGetPowerUsage=refuse)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = device_facts(GPU)
    assert (found["power_w"], found["driver"]) == ("unknown: Not Supported", "580.1")
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("nvml", "reason"),
    [
        (None, "unknown: nvidia-ml-py is not installed"),
        (fake_nvml(nvmlInit=refuse), "unknown: Not Supported"),
        (fake_nvml(nvmlDeviceGetHandleByUUID=refuse), "unknown: Not Supported"),
    ],
)
def test_without_nvml_the_driver_is_unknown_and_why(
    nvml: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert device_facts(GPU) == SIZE | {"driver": reason}


def test_a_processor_is_called_by_its_model_or_its_architecture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "processor : 0\nmodel name\t: A CPU @ 2 GHz\nmodel name\t: A CPU @ 2 GHz\n"
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    assert processor_name() == "A CPU @ 2 GHz"
    monkeypatch.setattr(Path, "read_text", lambda path: "processor : 0\n")
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert processor_name() == "aarch64"


def test_a_cpu_has_a_name_only() -> None:
    assert device_facts(torch.device("cpu")) == {"name": "cpu"}
