"""From the files of bench/serving.py and its simulation to docs/serving.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from serving_table import BEGIN, END, PAGE, draw, load, page, tables


def servers(engine: float, static: float, one: float) -> dict[str, Any]:
    named = {"engine": engine, "static batches": static, "one at a time": one}
    return {
        name: {"requests_per_s": 10 * x, "p50_s": 1 / x, "p99_s": 2 / x}
        for name, x in named.items()
    }


def model() -> dict[str, Any]:
    return {
        "cost_curve_s": {"1": 0.5, "2": 0.8},
        "loads": {"80%": servers(0.8, 0.5, 0.4), "95%": servers(0.9, 0.6, 0.5)},
    }


def result() -> dict[str, Any]:
    return {
        "machine": "made-up", "cores": 3, "threads": 1, "load_average": [0.25], "max_batch": 2,
        "requests": 7, "cached": model(), "uncached": model(),
        "overhead": {"tick_beside_evaluation_us": 61.2},
    }  # fmt: skip


def test_the_page_is_in_step_with_the_results() -> None:
    assert tables(load()) in PAGE.read_text(encoding="utf-8")


def test_the_tables_hold_what_was_measured_and_how_it_compares(tmp_path: Path) -> None:
    (tmp_path / "serving-digits.json").write_text(json.dumps(result()))
    shown = tables(load(tmp_path))
    assert "3 made-up CPU cores" in shown
    assert "| cached | 0.500, 1.00x | 0.800, 1.25x |" in shown
    assert "| uncached | 80% | 4.0, 5.0, 8.0 | 2.50, 2.00, 1.25 | 5.00, 4.00, 2.50 |" in shown
    assert "- cached, throughput at 95%: 1.80x of one at a time; p99 at 80%: 0.62x of" in shown
    assert "61 us" in shown
    assert "Simulated" not in shown


def test_without_results_there_is_no_table(tmp_path: Path) -> None:
    assert tables(load(tmp_path)) == ""


def test_only_what_stands_between_the_marks_is_made_anew() -> None:
    once = page(f"before\n{BEGIN}\nold\n{END}\nafter\n", "new")
    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert page(once, "new") == once
    with pytest.raises(ValueError, match="no marks"):
        page("nothing", "new")


def test_no_simulated_machine_has_a_longer_tail_than_with_static_batches() -> None:
    tails: dict[tuple[str, str, float], dict[str, float]] = {}
    for row in load()["simulated"]["rows"]:
        place = (row["machine"], row["model"], row["load"])
        tails.setdefault(place, {})[row["policy"]] = row["p99_s"]
    assert tails
    assert all(tail["engine"] < tail["static batches"] for tail in tails.values())


def test_the_picture_is_drawn_from_the_file_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(result(), tmp_path / "serving.png")
    assert (tmp_path / "serving.png").read_bytes().startswith(b"\x89PNG")
