"""The file of choices: what it keeps, what it refuses, and writers at the same time."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import filelock
import pytest
from tuning_bench import ADDMM, FC1, HEADS, PROJ, SPLIT, Bench, entry, never, tuner, write_entries

from l2c_rt.backends.cuda.tuning import machine
from l2c_rt.backends.tuning import cache_file, machine_file
from l2c_rt.backends.tuning.problems import (
    AttentionConfig,
    LinearConfig,
    LinearProblem,
)
from l2c_rt.untrusted import atomic_write


def test_what_was_tuned_is_used_by_the_next_run_unmeasured(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "tune.json"
    bench = Bench({SPLIT: 0.1, AttentionConfig("flash"): 0.1})
    first = tuner(bench, path)
    first.linear(PROJ, bench.make)
    first.linear(FC1, bench.make)
    first.attention(HEADS, bench.make)
    for clock in (bench, None):
        later = tuner(clock, path)
        assert later.linear(PROJ, never) == SPLIT
        assert later.linear(FC1, never) == LinearConfig("addmm_activation")
        assert later.attention(HEADS, never) == AttentionConfig("flash")
        assert (later.measured, later.notes) == (0, [])
    assert names(path.parent) == {"tune.json", "tune.json.lock"}


def test_the_file_is_read_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    write_entries(path, [entry()])
    assert tuner(None, path).linear(PROJ, never) == SPLIT


@pytest.mark.parametrize("entries", [{}, None, "x", [1, None, [], {}, {"problem": 1, "choice": 2}]])
def test_entries_of_another_shape_are_ignored(entries: Any, tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    write_entries(path, entries)
    bench = Bench({SPLIT: 0.1})
    chooser = tuner(bench, path)
    assert chooser.linear(PROJ, bench.make) == SPLIT
    assert chooser.notes == []
    assert tuner(None, path).linear(PROJ, never) == SPLIT


NOT_OURS = {
    "newer": b'{"version": 2, "machines": {}}',
    "older": b'{"version": 0, "machines": {}}',
    "true": b'{"version": true, "machines": {}}',
    "unversioned": b'{"machines": {}}',
    "list": b"[]",
    "no machines": b'{"version": 1}',
    "machines list": b'{"version": 1, "machines": []}',
    "cut off": b'{"version": 1, "mach',
    "not text": b"\xff\xfe\x00",
    "nan": b'{"version": NaN}',
    "deep": b"[" * 100_000,
    "long number": b'{"version": ' + b"9" * 10_000 + b"}",
    "too large": b'{"version": 1, "machines": {}}' + b" " * (4 << 20),
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_a_file_that_is_not_ours_is_noted_and_left_as_it_is(name: str, tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    path.write_bytes(NOT_OURS[name])
    bench = Bench({SPLIT: 0.1})
    chooser = tuner(bench, path)
    assert chooser.linear(PROJ, bench.make) == SPLIT
    chooser.linear(FC1, bench.make)
    assert [note.partition(":")[0] for note in chooser.notes] == [
        "what was tuned before is ignored",
        "what was tuned is not kept",
    ]
    assert path.read_bytes() == NOT_OURS[name]
    assert chooser.linear(PROJ, never) == SPLIT


def test_an_empty_file_is_taken_for_an_interrupted_write(tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    path.touch()
    bench = Bench({SPLIT: 0.1})
    chooser = tuner(bench, path)
    chooser.linear(PROJ, bench.make)
    assert chooser.notes == []
    assert tuner(None, path).linear(PROJ, never) == SPLIT


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_not_a_regular_file_is_not_opened(tmp_path: Path) -> None:
    # Opening a pipe that nobody writes to would wait for ever.
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        chooser = tuner(None, path)
        assert chooser.linear(PROJ, never) == ADDMM
        assert "not a regular file" in chooser.notes[0]


def test_a_path_that_cannot_be_written_is_noted_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    bench = Bench({SPLIT: 0.1})
    chooser = tuner(bench, tmp_path / "file" / "tune.json")
    assert chooser.linear(PROJ, bench.make) == SPLIT
    chooser.linear(FC1, bench.make)
    assert sum("not kept" in note for note in chooser.notes) == 1


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tune.json"
    before = write_entries(path, [entry()])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_write.os, "replace", full)
    bench = Bench({})
    chooser = tuner(bench, path)
    chooser.linear(FC1, bench.make)
    assert "No space left" in chooser.notes[0]
    assert path.read_bytes() == before
    assert names(tmp_path) == {"tune.json", "tune.json.lock"}


def test_what_another_process_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    bench = Bench({SPLIT: 0.1, AttentionConfig("flash"): 0.1})
    one, two, other = tuner(bench, path), tuner(bench, path), tuner(bench, path, "B200")
    for chooser in (one, two, other):
        assert chooser.linear(LinearProblem(1, 8, 8, True, None, "float32", False), bench.make)
    one.linear(PROJ, bench.make)
    two.attention(HEADS, bench.make)
    other.linear(PROJ, bench.make)
    later = tuner(None, path)
    assert later.linear(PROJ, never) == SPLIT
    assert later.attention(HEADS, never) == AttentionConfig("flash")
    assert tuner(None, path, "B200").linear(PROJ, never) == SPLIT


def test_of_writers_at_the_same_time_none_loses_a_choice(tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    problems = [LinearProblem(rows, 8, 8, True, None, "float32", False) for rows in range(1, 25)]
    notes: list[str] = []

    def work(mine: list[LinearProblem]) -> None:
        bench = Bench({})
        chooser = tuner(bench, path)
        for problem in mine:
            chooser.linear(problem, bench.make)
            cache_file.read_choices(path, chooser.machine)
        notes.extend(chooser.notes)

    threads = [threading.Thread(target=work, args=(problems[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes == []
    choices = cache_file.read_choices(path, machine.machine_key("H200"))
    assert choices == dict.fromkeys(problems, ADDMM)
    assert names(tmp_path) == {"tune.json", "tune.json.lock"}


def test_other_machines_make_room_before_a_file_grows_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tune.json"
    bench = Bench({SPLIT: 0.1})
    tuner(bench, path, "B200").linear(PROJ, bench.make)
    size = path.stat().st_size
    monkeypatch.setattr(machine_file, "MAX_BYTES", size + 100)
    tuner(bench, path).linear(PROJ, bench.make)
    assert tuner(None, path).linear(PROJ, never) == SPLIT
    assert tuner(None, path, "B200").linear(PROJ, never) == ADDMM
    monkeypatch.setattr(machine_file, "MAX_BYTES", size)
    chooser = tuner(bench, path)
    chooser.linear(FC1, bench.make)
    assert "to write, wanted at most" in chooser.notes[-1]
    assert tuner(None, path).linear(PROJ, never) == SPLIT


def test_a_lock_that_is_not_released_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_file, "LOCK_SECONDS", 0.05)
    bench = Bench({SPLIT: 0.1})
    chooser = tuner(bench, tmp_path / "tune.json")
    with filelock.FileLock(tmp_path / "tune.json.lock"):
        assert chooser.linear(PROJ, bench.make) == SPLIT
    assert "not kept" in chooser.notes[0]
    assert names(tmp_path) <= {"tune.json.lock"}


def test_a_file_system_without_locks_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def acquire(self: Any) -> None:
        raise NotImplementedError("no flock")

    monkeypatch.setattr(filelock.FileLock, "__enter__", acquire)
    bench = Bench({SPLIT: 0.1})
    chooser = tuner(bench, tmp_path / "tune.json")
    assert chooser.linear(PROJ, bench.make) == SPLIT
    assert "has no locks" in chooser.notes[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the cache folder has another name")
def test_choices_are_kept_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_file.default_path() == tmp_path / ".cache" / "l2c_rt" / "tune.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_file.default_path() == tmp_path / "xdg" / "l2c_rt" / "tune.json"


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_file.platformdirs, "user_cache_path", lambda *_, **__: Path("~/x"))
    assert cache_file.default_path() is None


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
