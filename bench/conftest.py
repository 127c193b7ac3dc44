"""What every benchmark shares: models of the sizes in the README, interleaved timing, the machine.

`pytest bench/ --benchmark-json=bench/results/NAME.json` keeps every sample; `python bench/table.py`
makes the tables.  `--quick` shrinks every model so that the suite is a smoke test.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from weights import fill_deterministic

import l2c_rt as rt
from l2c_rt.models import DiT
from l2c_rt.runtime.compiled import Compiled


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="tiny models: a smoke test, no figures")
    group = parser.getgroup("gpu", "the GPU suite (bench_gpu.py)")
    group.addoption("--parts", help="only these parts, by comma; * stands for anything in a name")
    group.addoption("--minutes", type=float, default=9.0, help="begin no part after these [9]")
    group.addoption("--fresh", action="store_true", help="also parts whose result is there")
    group.addoption("--results", type=Path, help="folder of the results [bench/results/gpu]")
    group.addoption("--published", type=Path, help="a clone of the published L2C program")


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    output_json["machine_info"] |= {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "command": " ".join(["pytest", *config.invocation_params.args]),
        "quick": bool(config.getoption("--quick")),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.machine()


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def model(quick: bool) -> DiT:
    """Depth 28, width 384, 256 tokens, as the presets need; tiny with --quick."""
    size = {"hidden_size": 32, "num_heads": 2, "input_size": 8} if quick else {
        "hidden_size": 384, "num_heads": 6, "input_size": 32,
    }  # fmt: skip
    made = DiT(depth=28, num_classes=10, **size)
    fill_deterministic(made, 0)
    return made.eval()


def run_inputs(model: DiT) -> tuple[torch.Tensor, list[int]]:
    """One image and its label."""
    size = model.x_embedder.grid * model.patch_size
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 4, size, size)))
    return noise.float(), [3]


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def paired(
    benchmark: Any, run: Callable[[], object], against: Callable[[], object], rounds: int
) -> np.ndarray:
    """Time `run` between runs of `against`; the ratio against / run of every round.

    Order B A B A ... B: each A is compared with the mean of the two B beside it, so that a drift
    of the machine's speed cancels.
    """
    run()
    against()
    others: list[float] = []
    benchmark.pedantic(
        run, setup=lambda: others.append(seconds(against)), rounds=rounds, iterations=1
    )
    others.append(seconds(against))
    benchmark.extra_info["against_seconds"] = others
    beside = (np.array(others[:-1]) + np.array(others[1:])) / 2
    return np.asarray(beside / np.array(benchmark.stats.stats.data))


def sampler(model: DiT, what: Any, **options: Any) -> tuple[Compiled, Callable[[], torch.Tensor]]:
    """A compiled model and its whole run, without guidance: one image, one row."""
    fast = rt.compile(model, what, **options)
    noise, y = run_inputs(model)
    return fast, lambda: fast.sample(noise, y, cfg_scale=1.0)


def record(benchmark: Any, **facts: Any) -> None:
    benchmark.extra_info.update(json.loads(json.dumps(facts, default=float)))
