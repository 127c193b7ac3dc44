"""Options, the machine in --benchmark-json, and the model that the CPU benchmarks share.

`pytest bench --benchmark-json=bench/results/NAME.json` keeps every sample; `python bench/table.py`
makes the table.  `--quick` shrinks every model so that the suite is a smoke test.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cpu.cases import dit
from gpu.results import commit, version

from l2c_rt.measure.machine import processor_name
from l2c_rt.models import DiT


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="tiny models: a smoke test, no figures")
    parser.addoption("--published", type=Path, help="a clone of the published L2C program")
    parser.addoption("--all-peers", action="store_true", help="every peer in every case: an hour")
    group = parser.getgroup("gpu", "the GPU suite (bench_gpu.py)")
    group.addoption("--fresh", action="store_true", help="also what has a result already")
    group.addoption("--results", type=Path, help="folder of the results [bench/results/gpu]")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    output_json["machine_info"] |= {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "commit": commit(),
        "packages": {package: version(package) for package in ("diffusers", "cache-dit", "timm")},
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": processor_name(),
        "command": " ".join(["pytest", *config.invocation_params.args]),
        "quick": bool(config.getoption("--quick")),
    }


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def model(quick: bool) -> DiT:
    """Depth 28, width 384, 256 tokens, as the presets need; tiny with --quick."""
    return dit(384, quick)
