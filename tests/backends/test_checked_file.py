"""The file of what was checked: kept by machine, never trusted further than that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from l2c_rt.backends.cuda.checking import checked_file
from l2c_rt.backends.cuda.checking.checked_file import MOST, CheckedShapes


def of(path: Path, machine: str = "H200") -> CheckedShapes:
    return CheckedShapes(machine, path)


def test_what_was_checked_is_kept_for_its_machine_and_its_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "checked.json"
    for machine, digest in (("H200", "a"), ("B200", "b"), ("H200", "c")):
        of(path, machine).remember(digest)
    assert [of(path).passed(digest) for digest in "abc"] == [True, False, True]
    assert of(path, "B200").passed("b")
    monkeypatch.setattr(checked_file, "kernels_digest", lambda: "others")
    assert not of(path).passed("a")


def test_without_a_path_it_is_kept_in_memory() -> None:
    checked = CheckedShapes("H200", None)
    checked.remember("a")
    assert (checked.passed("a"), checked.passed("b"), checked.notes) == (True, False, [])


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"{}", b'{"version": 2, "machines": {}}', b'{"version": 1, "machines": []}'],
)
def test_a_file_that_is_not_one_of_ours_is_noted_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "checked.json"
    path.write_bytes(content)
    checked = of(path)
    assert not checked.passed("a")
    checked.remember("a")
    assert checked.passed("a")
    assert len(checked.notes) == 1
    assert str(path) in checked.notes[0]
    assert path.read_bytes() == content


def test_an_empty_file_is_as_good_as_none_and_odd_entries_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "checked.json"
    path.touch()
    checked = of(path)
    checked.remember("a")
    assert (of(path).passed("a"), checked.notes) == (True, [])
    content: dict[str, Any] = json.loads(path.read_text())
    (machine,) = content["machines"]
    content["machines"] = {machine: ["b", 3, None, "x" * 100], "other": {"a": 1}}
    path.write_text(json.dumps(content))
    assert [of(path).passed(digest) for digest in ("a", "b", "x" * 100)] == [False, True, False]


def test_the_list_of_a_machine_is_bounded_and_the_latest_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "checked.json"
    checked = of(path)
    checked._passed |= {f"{k:05}": None for k in range(2 * MOST)}
    checked.remember("last")
    (digests,) = json.loads(path.read_text())["machines"].values()
    assert len(digests) == MOST
    assert digests[-1] == "last"
