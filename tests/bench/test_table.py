"""From result files to tables, pictures and docs/performance.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from cpu_suite import peer_file, run_file, suite_files, write_files
from drawn_texts import misplaced_texts
from gpu.models import CASES
from gpu.peers import PEERS
from gpu.plots import batches_figure, draw_all
from gpu_table import BEGIN, END, PAGE, RESULTS, load, of_kind, page, run_table, tables

PICTURE = Path("performance/a.png")


def test_the_page_is_in_step_with_the_results() -> None:
    results = load([RESULTS])
    assert tables(results) in PAGE.read_text(encoding="utf-8")


def test_without_results_there_is_no_table() -> None:
    assert "|" not in tables([])


def test_the_tables_hold_every_figure_that_was_measured(tmp_path: Path) -> None:
    shown = tables(load([write_files(tmp_path, suite_files())]))
    assert shown.startswith("- a GPU that does not exist, driver 0")
    rows = {line.split(" | ")[0].strip("| "): line for line in shown.splitlines()}
    assert {case.name for case in CASES} <= set(rows)
    run = run_file(CASES[0], 8, 0.16)
    floor = 1e3 * run["floors"]["kernelwise"]
    assert f"| 1.300x of 1.310x | 0.992 | {floor:.2f} | 1.20x |" in shown
    assert all(f" {name} |" in shown for name in PEERS)
    assert "; 1.60x |" in shown
    assert "| copy, TB/s read plus written | 4 to 4 |" in shown
    assert "| kernel (a), 4 reused, 2 rows, share of the copy | 75.0% |" in shown
    assert "| one of 200 nodes of a graph, us | 1.50 |" in shown
    assert "| compile to first image, cold, s | 31.4 |" in shown


def test_the_delta_form_has_a_column_where_it_was_measured() -> None:
    ordinary, both = run_file(CASES[0], 1, 0.02), run_file(CASES[2], 1, 0.02)
    both["samples"] = both["samples"] | {"delta": [0.0125] * 4}
    header, _, *rows = run_table([ordinary, both])
    assert " delta form ms |" in header
    assert ["12.50 (12.50 to 12.50)" in row for row in rows] == [False, True]
    assert {row.count("|") for row in rows} == {header.count("|")}


def test_what_has_no_file_has_no_row(tmp_path: Path) -> None:
    shown = tables(load([write_files(tmp_path, [peer_file(CASES[0], 8, "strong", 1.75)])]))
    assert "Whole runs" not in shown
    assert "eager" not in shown
    assert "1.75x" in shown


def test_a_failure_is_listed_by_its_last_line(tmp_path: Path) -> None:
    failed = run_file(CASES[0], 64, 1.0) | {"failed": "Traceback:\n  x\nKeyError: 'y'\n"}
    shown = tables(load([write_files(tmp_path, [failed])]))
    assert f"- `{failed['id']}`: KeyError: 'y'" in shown
    assert "Whole runs" not in shown


def test_the_page_is_made_anew_between_its_marks_only() -> None:
    results = [run_file(CASES[0], 1, 0.1)]
    once = page(f"before\n{BEGIN}\nold\n{END}\nafter\n", results, [PICTURE])
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert "![a](performance/a.png)" in once
    assert page(once, results, [PICTURE]) == once
    with pytest.raises(ValueError, match="no marks"):
        page("nothing", results, [])


def test_pictures_are_drawn_from_the_files_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    of_case = [r for r in suite_files() if r["case"] == CASES[0].name]
    drawn = draw_all(of_kind(of_case, "run"), of_kind(of_case, "peer"), tmp_path / "pictures")
    name = CASES[0].name
    expected = {f"batches-{name}.png", f"steps-run-{name}-n1.png", f"steps-run-{name}-n8.png"}
    assert {path.name for path in drawn} == expected
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert draw_all([], [], tmp_path) == []


def test_the_legend_names_the_lines_from_above_to_below() -> None:
    pytest.importorskip("matplotlib")
    of_case = [r for r in suite_files() if r["case"] == CASES[0].name]
    figure = batches_figure(of_kind(of_case, "run"), of_kind(of_case, "peer"))
    [legend], [axis] = figure.legends, figure.axes
    last = {line.get_label(): line.get_ydata()[-1] for line in axis.lines}
    names = [text.get_text() for text in legend.get_texts()]
    assert names == sorted(last, key=lambda name: -last[name])
    assert not misplaced_texts(figure)
