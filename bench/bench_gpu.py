"""The GPU suite: `pytest bench -m gpu`.  One benchmark per part, each with a file of its own.

Parts whose result is there already are not repeated, and none is begun when --minutes are spent:
call it again for the rest.  `python bench/gpu/table.py --write` puts the results into
docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from statistics import median
from typing import Any

import pytest
import torch
from conftest import record
from gpu.parts import parts
from gpu.suite import RESULTS, Part, Skip, Suite, suite_on

pytestmark = pytest.mark.gpu


PARTS = parts()


@pytest.fixture(scope="module")
def suite(request: pytest.FixtureRequest) -> Iterator[Suite]:
    option = request.config.getoption
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    if option("--quick"):
        pytest.skip("--quick measures nothing; leave it out on a GPU")
    if not any(wanted(part, option("--parts")) for part in PARTS):
        names = " ".join(part.name for part in PARTS)
        raise pytest.UsageError(f"--parts {option('--parts')} is none of {names}")
    made = suite_on(
        torch.device("cuda"),
        published=option("--published"),
        minutes=option("--minutes"),
        fresh=option("--fresh"),
        results=option("--results") or RESULTS,
    )
    yield made
    if made.left:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{len(made.left)} parts left for the next call: {' '.join(made.left)}")


def wanted(part: Part, patterns: str | None) -> bool:
    return not patterns or any(fnmatch(part.name, pattern) for pattern in patterns.split(","))


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def bench_part(benchmark: Any, suite: Suite, part: Part, request: pytest.FixtureRequest) -> None:
    if not wanted(part, request.config.getoption("--parts")):
        pytest.skip("not among --parts")
    if why := suite.why_not(part):
        pytest.skip(why)
    try:
        result = benchmark.pedantic(suite.run, args=(part,), rounds=1)
    except Skip as reason:
        pytest.skip(str(reason))
    seconds = {name: median(samples) for name, samples in result.get("samples", {}).items()}
    record(benchmark, group="gpu", median_seconds=seconds)
    told = ", ".join(f"{name} {1e3 * s:.2f} ms" for name, s in seconds.items())
    print(f"\n{part.name}: {told or 'measured'}, took {result['took_seconds']:.0f} s")
