"""The table of times in docs/comparison.md is that of bench/results/methods.json."""

from __future__ import annotations

import json
from pathlib import Path

from table import method_rows

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "bench/results/methods.json").read_text())


def test_the_table_is_what_was_measured() -> None:
    rows = [row for row in method_rows(RESULTS) if row.startswith("|")]
    assert len(rows) > 19
    page = (ROOT / "docs/comparison.md").read_text()
    assert "\n".join(rows) in page


def test_the_page_names_every_method_below_95_hundredths() -> None:
    (facts,) = (bench["extra_info"] for bench in RESULTS["benchmarks"])
    below = {"speca", "toca", "duca", "taylorseer", "hicache", "smoothcache"}
    assert set(facts["below"]) == below
