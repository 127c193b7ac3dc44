"""The GPU suite: `pytest bench -m gpu`.  Each measurement has a file of its own in --results.

What has a file is skipped, so that the same line goes on from where a run was stopped; --fresh
measures again, `-k` chooses.  `python bench/gpu_table.py --write` puts the results into
docs/performance.md.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import pytest
import torch
from gpu import measurements
from gpu.models import CASES, IMAGES, Case, Rig
from gpu.peers import PEERS
from gpu.results import RESULTS, file_of, measured
from gpu.start import start_result

pytestmark = pytest.mark.gpu

Record = Callable[[Callable[[Rig], dict[str, Any]]], None]

RUNS = [
    pytest.param(case, images, id=f"{case.name}-n{images}") for images in IMAGES for case in CASES
]
PEER_RUNS = [
    pytest.param(case, images, name, id=f"{case.name}-n{images}-{name}")
    for images in IMAGES
    for name, peer in PEERS.items()
    for case in CASES
    if case.model.startswith("dit") or not peer.dit_only
]


@pytest.fixture(scope="module")
def rig(request: pytest.FixtureRequest) -> Rig:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    if request.config.getoption("--quick"):
        pytest.skip("--quick measures nothing; leave it out on a GPU")
    return Rig(torch.device("cuda"), published=request.config.getoption("--published"))


@pytest.fixture
def record(rig: Rig, request: pytest.FixtureRequest) -> Record:
    """Runs a measurement and writes its file; its failure is the test's."""
    option = request.config.getoption
    file = file_of(option("--results") or RESULTS, request.node.name)
    if file.exists() and not option("--fresh"):
        pytest.skip(f"{file} is there; --fresh measures again")

    def run(measure: Callable[[Rig], dict[str, Any]]) -> None:
        command = f"pytest 'bench/bench_gpu.py::{request.node.name}' --fresh"
        kind = request.node.originalname.removeprefix("bench_")
        header = {"id": file.stem, "kind": kind, "command": command}
        result = measured(file, header, rig.device, partial(measure, rig))
        if "failed" in result:
            stop_if_broken()
        # A compiled model and its sessions refer to each other, and hold the device's memory.
        gc.collect()
        torch.cuda.empty_cache()
        if "failed" in result:
            pytest.fail(result["failed"], pytrace=False)
        seconds = {name: median(samples) for name, samples in result.get("samples", {}).items()}
        print("".join(f"\n{name} {1e3 * s:.2f} ms" for name, s in seconds.items()))

    return run


def stop_if_broken() -> None:
    """After an illegal access every call of the process fails: end the session, not each of it."""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        pytest.exit(f"the GPU no longer answers this process: {error}", returncode=1)


def bench_ceilings(record: Record) -> None:
    record(measurements.ceilings_result)


def bench_nodes(record: Record) -> None:
    record(measurements.nodes_result)


def bench_row_kernels(record: Record) -> None:
    record(measurements.row_kernels_result)


@pytest.mark.parametrize(("case", "images"), RUNS)
def bench_run(record: Record, case: Case, images: int) -> None:
    record(lambda rig: measurements.run_result(rig, case, images))


def bench_start(record: Record) -> None:
    record(lambda rig: start_result())


@pytest.mark.parametrize(("case", "images", "name"), PEER_RUNS)
def bench_peer(record: Record, rig: Rig, case: Case, images: int, name: str) -> None:
    if reason := PEERS[name].missing(rig):
        pytest.skip(reason)
    record(lambda rig: measurements.peer_result(rig, case, images, name))
