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
from weights import fill_deterministic

from l2c_rt.measure.machine import processor_name
from l2c_rt.models import DiT


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="tiny models: a smoke test, no figures")
    group = parser.getgroup("gpu", "the GPU suite (bench_gpu.py)")
    group.addoption("--fresh", action="store_true", help="also what has a result already")
    group.addoption("--results", type=Path, help="folder of the results [bench/results/gpu]")
    group.addoption("--published", type=Path, help="a clone of the published L2C program")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    output_json["machine_info"] |= {
        "torch": torch.__version__,
        "numpy": np.__version__,
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
    size = {"hidden_size": 32, "num_heads": 2, "input_size": 8} if quick else {
        "hidden_size": 384, "num_heads": 6, "input_size": 32,
    }  # fmt: skip
    dit = DiT(depth=28, num_classes=10, **size)
    fill_deterministic(dit, 0)
    return dit.eval()
