"""The four published router files, where they are at hand."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from l2c_rt import presets
from l2c_rt.policies.router import Router

PUBLISHED = Path(__file__).parents[2] / "../shared/routers"
published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason=f"the four published router files are not at {PUBLISHED}"
)


def counts(schedule, rows: list[int]) -> list[int]:
    return schedule.compute[rows].sum(axis=1).tolist()


# Computed branches per cached evaluation, in execution order.
PUBLISHED_COUNTS = {
    "DDIM20_router.pt": [0, 0, 4, 8, 26, 53, 55, 55, 55, 56],
    "DDIM50_router.pt": [
        *(0, 1, 0, 0, 3, 1, 2, 6, 7, 8, 11, 26, 29, 36, 54, 54),
        *(55, 55, 55, 55, 56, 55, 55, 56, 56),
    ],
    "dpm20_router.pth": [0, 2, 6, 6, 8, 16, 49, 52, 50],
    "dpm50_router.pth": [0] * 9 + [1, 1, 2, 2, 4, 4, 4, 3, 2, 2, 6, 8, 11, 15, 23],
}
PUBLISHED_KINDS = {
    "DDIM20_router.pt": (157, 155),
    "DDIM50_router.pt": (371, 365),
    "dpm20_router.pth": (103, 86),
    "dpm50_router.pth": (47, 41),
}
PRESETS = {
    "DDIM20_router.pt": "l2c/dit-xl-2-256/ddim-20",
    "DDIM50_router.pt": "l2c/dit-xl-2-256/ddim-50",
    "dpm20_router.pth": "l2c/uvit-h-2-256/dpm-20",
    "dpm50_router.pth": "l2c/uvit-h-2-256/dpm-50",
}
DISTINCT = {
    "DDIM20_router.pt": 7,
    "DDIM50_router.pt": 14,
    "dpm20_router.pth": 10,
    "dpm50_router.pth": 15,
}


@published
@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_a_published_router_gives_the_published_counts(name):
    router = Router.load(PUBLISHED / name)
    schedule = router.schedule()
    cached = list(router.valid_rows())
    assert counts(schedule, cached) == PUBLISHED_COUNTS[name]
    assert schedule.compute[np.setdiff1d(np.arange(router.steps), cached)].all()
    by_kind = schedule.compute[cached].reshape(len(cached), -1, 2).sum(axis=(0, 1))
    assert tuple(by_kind) == PUBLISHED_KINDS[name]
    assert len(schedule.distinct_rows()) == DISTINCT[name]
    assert schedule == presets.load(PRESETS[name])
    assert schedule.source == name


@published
def test_published_totals():
    totals = {
        name: (sum(per_row), Router.load(PUBLISHED / name).schedule().compute.shape)
        for name, per_row in PUBLISHED_COUNTS.items()
    }
    assert totals == {
        "DDIM20_router.pt": (312, (20, 56)),
        "DDIM50_router.pt": (736, (50, 56)),
        "dpm20_router.pth": (189, (20, 58)),
        "dpm50_router.pth": (88, (50, 58)),
    }


@published
@pytest.mark.parametrize(
    ("threshold", "percent"),
    [(0.05, 43.75), (0.3, 46.43), (0.5, 47.86), (0.7, 50.36), (0.9, 55.18)],
)
def test_other_thresholds_reuse_the_published_shares(threshold, percent):
    schedule = Router.load(PUBLISHED / "DDIM20_router.pt").schedule(threshold)
    assert 100 * (~schedule.compute).sum() / 560 == pytest.approx(percent, abs=0.005)
    assert schedule.threshold == threshold


@published
@pytest.mark.parametrize("nfe", [20, 50])
def test_uvit_caches_the_third_fifth_seventh_evaluation_and_so_on(nfe):
    router = Router.load(PUBLISHED / f"dpm{nfe}_router.pth")
    assert [n + 1 for n in router.valid_rows()] == list(range(3, nfe, 2))
    full = router.schedule(threshold=1.0).compute.all(axis=1)
    assert [n + 1 for n in np.flatnonzero(~full)] == list(range(3, nfe, 2))


@published
@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_the_reader_agrees_with_torch(name):
    torch = pytest.importorskip("torch")
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(PUBLISHED / name, weights_only=True, map_location="cpu")
    table = content.get("routers", content)
    logits = np.stack([table[f"{row}.prob"].numpy() for row in range(len(table))])
    np.testing.assert_array_equal(Router.load(PUBLISHED / name).logits, logits)


@published
def test_the_header_of_a_published_dit_router_is_kept():
    router = Router.load(PUBLISHED / "DDIM50_router.pt", steps=50, depth=28, family="dit")
    training = json.loads(router.training)
    assert (training["l1"], training["lr"], training["model"]) == (1e-6, 1e-3, "DiT-XL/2")
