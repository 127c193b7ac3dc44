"""Our cached run beside every peer on this machine's CPU, in one rotation for each case.

DiT of depth 28, 256 tokens, the published DDIM-20 schedule, no guidance.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from cpu.cases import Case
from cpu.programs import PROGRAMS, Run, ours
from timed_runs import beside, record

import l2c_rt as rt
from l2c_rt.measure.interleaved import ratios

F32, BF16 = torch.float32, torch.bfloat16
STRONGEST = ("variants, packed",)
SEVERAL = ("compiled, frozen", "variants", *STRONGEST, "published", "fused, addmm")
CASES = {
    (384, F32, 1): (tuple(PROGRAMS), 3),
    (768, F32, 1): ((*SEVERAL, "fused, uncached", "products alone"), 1),
    (384, BF16, 1): ((*STRONGEST, "fused, addmm", "fused, uncached", "products alone"), 3),
    (768, BF16, 1): ((*STRONGEST, "fused, addmm"), 2),
    (384, F32, 4): (STRONGEST, 2),
    (768, F32, 4): (STRONGEST, 1),
    (384, BF16, 4): (STRONGEST, 3),
    (768, BF16, 4): (STRONGEST, 1),
}
"""Width, dtype and images: the programs and rounds that fit into some minutes in all."""
CLOSE = {F32: 1e-4, BF16: 0.1}
"""How far a peer's latents may be from ours, as |difference| / |latents|."""


@pytest.fixture(autouse=True)
def compiled_code_goes() -> Iterator[None]:
    """Nothing that torch.compile made for one case is left for the next."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    gc.collect()


@pytest.mark.parametrize(("width", "dtype", "images"), CASES)
def bench_peers(
    request: Any, benchmark: Any, quick: bool, width: int, dtype: torch.dtype, images: int
) -> None:
    if quick and width > 384:
        pytest.skip("the tiny model has one width")
    names, rounds = CASES[width, dtype, images]
    if request.config.getoption("--all-peers"):
        names = tuple(PROGRAMS)
    case = Case(width, dtype, images, quick)
    run, others, missing = ours(case, backend="fused"), dict[str, Run](), dict[str, str]()
    for name in names:
        clone: Path | None = request.config.getoption("--published")
        if reason := PROGRAMS[name].missing(clone):
            missing[name] = reason
        else:
            others[name] = PROGRAMS[name].build(case, clone)
    differences = _checked(case, run, others)
    samples = beside(benchmark, run, others, rounds=1 if quick else rounds)
    per_round = {name: ratios(s, benchmark.stats.stats.data) for name, s in samples.items()}
    fast = rt.compile(case.model, case.schedule, backend="fused")
    record(
        benchmark, group="peers", case=case.name, width=width, images=images,
        dtype=str(dtype).removeprefix("torch."), samples=samples, ratios=per_round,
        missing=missing, differences=differences, bound=fast.cost.speedup_limit,
    )  # fmt: skip
    _print(case, benchmark.stats.stats.median, per_round, missing, fast.cost.speedup_limit)
    assert quick or median(per_round["variants, packed"]) >= 1


def _checked(case: Case, run: Run, others: dict[str, Run]) -> dict[str, float]:
    """How far each peer is from our own run of the same kind; too far is an error."""
    same = {True: run(), False: PROGRAMS["fused, uncached"].build(case, None)()}
    found: dict[str, float] = {}
    for name, other in others.items():
        if PROGRAMS[name].exact:
            expected = same[PROGRAMS[name].cached].float()
            found[name] = float((other().float() - expected).norm() / expected.norm())
            assert found[name] < CLOSE[case.dtype], f"{name} computes something else: {found[name]}"
    return found


def _print(
    case: Case, seconds: float, per_round: dict[str, list[float]], missing: dict[str, str],
    bound: float,
) -> None:  # fmt: skip
    print(f"\n{case.name}: ours {seconds:.3f} s, cached at most {bound:.3f}x of uncached")
    for name, several in per_round.items():
        print(f"  {median(several):6.3f}x  {name}  ({min(several):.3f} to {max(several):.3f})")
    for name, reason in missing.items():
        print(f"  not run: {name}: {reason}")
