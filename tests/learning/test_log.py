"""log.csv of a resumed run keeps its whole lines, whatever else the file holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from l2c_rt.learning.log import COLUMNS, CsvLog

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
