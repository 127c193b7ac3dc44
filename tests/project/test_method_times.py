"""The table of times in docs/comparison.md is that of bench/results/methods.json."""

from __future__ import annotations

import json
from pathlib import Path

from table import method_rows

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "bench/results/methods.json").read_text())


def test_the_page_has_the_table_that_was_measured_and_names_what_is_below() -> None:
    (facts,) = (bench["extra_info"] for bench in RESULTS["benchmarks"])
    rows = method_rows(facts)
    assert len(rows) > 19
    assert "\n".join(rows) in (ROOT / "docs/comparison.md").read_text()
    shares = {name: timed["of_bound"] for name, timed in facts["methods"].items()}
    assert facts["below"] == [name for name, share in shares.items() if share < 0.95]
