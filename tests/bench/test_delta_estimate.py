"""The estimate of the delta form, and the page that has its figures."""

from __future__ import annotations

import json
from pathlib import Path

import delta_estimate
import pytest
from delta_estimate import KERNELS, MEASURED, estimate

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def test_the_page_has_the_figures_of_the_estimate() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    found = estimate(json.loads(MEASURED.read_text(encoding="utf-8")))
    before, after = found.launches
    products = [form["first product"] + form["added product"] for form in (before, after)]
    assert f"{1e3 * found.delta:.1f} ms, where {1e3 * found.ordinary:.1f} ms were measured" in text
    assert f"{found.evaluations} of the 50 evaluations" in text
    assert "a whole run {1} in place of {0}".format(*found.kernels) in text
    assert "{1} in place of {0}".format(*products) in text
    assert "{1} slots in place of {0}".format(*found.slots) in text


def test_what_is_saved_is_in_proportion_to_the_launches_that_are_gone() -> None:
    result = json.loads(MEASURED.read_text(encoding="utf-8"))
    found = estimate(result)
    slower = [
        entry | {"seconds": 2 * entry["seconds"]} if KERNELS["sum"] in entry["name"] else entry
        for entry in result["profile"]["longest"]
    ]
    changed = estimate(result | {"profile": result["profile"] | {"longest": slower}})
    before, after = found.launches
    (sums,) = (e for e in result["profile"]["longest"] if KERNELS["sum"] in e["name"])
    more = (before["sum"] - after["sum"]) * sums["seconds"] / sums["count"]
    assert abs((found.delta - changed.delta) - more) < 1e-9


def test_it_prints_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    delta_estimate.main()
    printed = capsys.readouterr().out
    assert "ms measured" in printed
    assert "ms estimated" in printed
