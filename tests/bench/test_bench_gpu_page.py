"""From result files to tables, targets, pictures and docs/performance.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cpu_suite import synthetic_peer, synthetic_results, synthetic_run
from gpu.models import CASES
from gpu.peers import PEERS
from gpu.plots import draw_all
from gpu.results import Results, files_in, lead, over_floor, share_of_bound
from gpu.table import BEGIN, END, PAGE, page, tables
from gpu.targets import NOT_MEASURED, TARGETS, target_table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    for result in synthetic_results():
        (tmp_path / f"{result['part']}.json").write_text(json.dumps(result))
    return Results(files_in([str(tmp_path)]))


def test_the_page_is_in_step_with_the_results() -> None:
    kept = ROOT / "bench" / "results" / "gpu"
    found = Results(files_in([str(kept)] if kept.is_dir() else []))
    assert tables(found) in PAGE.read_text(encoding="utf-8")


def test_without_results_every_target_is_not_measured() -> None:
    rows = target_table(Results([]))[2:]
    assert len(rows) == len(TARGETS)
    assert all(row.endswith(f"| {NOT_MEASURED} |") for row in rows)
    assert "**No figure has been measured on a GPU yet.**" in tables(Results([]))


def test_ratios_are_those_of_the_samples() -> None:
    run = synthetic_run(CASES[0], 8, 0.2)
    assert over_floor(run) == pytest.approx(1.2, rel=0.01)
    assert share_of_bound(run) == pytest.approx(1.3 / 1.31)
    assert lead(synthetic_peer(CASES[0], 1, "strong", 1.75)) == pytest.approx(1.75)


def test_targets_show_the_worst_figure_and_whether_it_is_met(results: Results) -> None:
    rows = {row.split(" | ")[0].strip("| "): row for row in target_table(results)[2:]}
    floor = rows["DiT-XL/2 256 DDIM-50, 1 image, time over the floor"]
    assert floor.endswith("at most 1.75x | at most 1.35x | 1.20x, met |")
    assert rows["times as fast as the published program, eager, bf16, 1 image"].endswith(
        "| 3.10x, met |"
    )
    idle = [row for row in rows.values() if "idle" in row or "%" in row]
    assert any(row.endswith("at most 3 % | at most 1 % | 2.0 %, met |") for row in idle)
    assert rows["kernels (a), (b), 8 images and more, share of the copy bandwidth"].endswith(
        NOT_MEASURED + " |"
    )


def test_a_missed_target_says_so(tmp_path: Path) -> None:
    slow = synthetic_peer(CASES[0], 8, "strong", 1.01)
    (tmp_path / "slow.json").write_text(json.dumps(slow))
    table = "\n".join(target_table(Results(files_in([str(tmp_path)]))))
    assert "| 1.01x, NOT met |" in table


def test_tables_hold_every_case_peer_and_machine(results: Results) -> None:
    shown = tables(results)
    assert "a GPU that does not exist, driver 0" in shown
    for case in CASES:
        assert f"| {case.name} | 64 | " in shown
    for peer in PEERS:
        assert f" {peer} |" in shown
    assert "No figure" not in shown


def test_what_was_skipped_or_failed_is_listed_with_its_reason(tmp_path: Path) -> None:
    missing = {"part": "x.n64", "kind": "run", "skipped": "needs about 200 GiB"}
    (tmp_path / "x.n64.json").write_text(json.dumps(missing))
    shown = tables(Results(files_in([str(tmp_path)])))
    assert "- `x.n64`: skipped: needs about 200 GiB" in shown


def test_the_page_is_made_anew_between_its_marks_only(results: Results) -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = page(text, results, ["![a](performance/a.png)"])
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert page(once, results, ["![a](performance/a.png)"]) == once
    with pytest.raises(ValueError, match="no marks"):
        page("nothing", results, [])


def test_pictures_are_drawn_from_the_files_alone(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for part in [p for p in results.by_part if not p.startswith(CASES[0].name)]:
        del results.by_part[part]
    drawn = draw_all(results, tmp_path / "pictures")
    names = {path.name for path in drawn}
    assert {"roofline.png", f"steps-{CASES[0].name}.n1.png", f"batches-{CASES[0].name}.png"} < names
    assert len(drawn) == 4
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_without_results_nothing_is_drawn(tmp_path: Path) -> None:
    assert draw_all(Results([]), tmp_path) == []
