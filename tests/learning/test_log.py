"""log.csv of a resumed run keeps its whole lines, whatever else the file holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from drawn_texts import misplaced_texts

from l2c_rt.learning.log import COLUMNS, CsvLog, scores_figure

HEAD = ",".join(COLUMNS).encode()
LINE = b"1,0.5,1e-05,0,inf,nan,2.25"


@pytest.mark.parametrize(
    "rest",
    [b"", b"a\0b\n", b"x" * 200_000 + b"\n", b"\xff\xfe,1\n", b'"unterminated', b"2,1,1,1",
     b"9" * 5000 + b",1,1,1,1,1,1\n", "\u0663,1,1,1,1,1,1\n".encode(), b"-1,1,1,1,1,1,1\n",
     b"3,1,1,1,1,1,1\n", b"1,1,1,1,1,1,1,1\n", b"1,,,,,,\n", b"=cmd|,1,1,1,1,1,1\n"],
    ids=lambda rest: str(rest[:12]),
)  # fmt: skip
def test_only_whole_lines_up_to_the_checkpoint_are_kept(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(HEAD + b"\n" + LINE + b"\n" + rest)
    CsvLog(path, 5, resumed_at=2).close()
    assert path.read_bytes() == HEAD + b"\n" + LINE + b"\n"


def test_a_log_that_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.csv")
    for resumed_at in (0, 2):
        with pytest.raises(ValueError, match="not a regular file"):
            CsvLog(tmp_path / "log.csv", 5, resumed_at)


def test_lines_are_whole_as_soon_as_they_are_added(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "log.csv", 2, resumed_at=0)
    log.add(1, **dict.fromkeys(COLUMNS[1:], 0.5))
    assert (tmp_path / "log.csv").read_bytes() == HEAD + b"\n1" + b",0.5" * 6 + b"\n"
    log.close()


@pytest.mark.parametrize("iterations", [(0,), (0, 24), (0, 2400, 4800, 7200, 9600, 12000)])
def test_scores_are_drawn_by_kind_under_one_colour_bar(iterations: tuple[int, ...]) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    scores = torch.linspace(0, 1, 10 * 6).view(10, 6)
    branches = tuple(f"{kind}-{block}" for block in range(3) for kind in ("attn", "mlp"))
    snapshots = [(iteration, scores) for iteration in iterations]
    figure = scores_figure(snapshots, list(range(1, 20, 2)), branches)
    *panels, bar = figure.axes
    assert bar.get_label() == "<colorbar>"
    attn, mlp = (panels[k * len(iterations)] for k in range(2))
    for axis, first, name in ((attn, 0, "attention, block"), (mlp, 1, "MLP, block")):
        assert axis.get_ylabel() == name
        assert (axis.images[0].get_array() == scores.T[first::2].numpy()).all()
    assert not misplaced_texts(figure)
