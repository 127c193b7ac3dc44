"""Choosing by measurement: the rule, the file it is kept in, and what untrusted files cannot do."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from l2c_rt.backends.cuda.tuning import cache_file as tuned_file
from l2c_rt.backends.cuda.tuning import machine
from l2c_rt.backends.cuda.tuning.candidates import attention_candidates, linear_candidates
from l2c_rt.backends.cuda.tuning.problems import (
    AttentionConfig,
    AttentionProblem,
    LinearConfig,
    LinearProblem,
)
from l2c_rt.backends.cuda.tuning.tuner import CaptureInProgress, Tuner, WrongResult

PROJ = LinearProblem(512, 1152, 1152, True, None, "bfloat16", True)
FC1 = LinearProblem(512, 4608, 1152, True, "tanh", "bfloat16", False)
HEADS = AttentionProblem(2, 256, 16, 72, "bfloat16")
ADDMM = LinearConfig("addmm")
SPLIT = LinearConfig("split", (64, 128, 64, 4, 4, 8), 2)
TRITON = LinearConfig("triton", (64, 64, 64, 4, 4, 8))


class Bench:
    """Times by choice instead of a clock; `errors` are raised where the call is built."""

    def __init__(self, times: dict[Any, float], errors: dict[Any, Exception] | None = None) -> None:
        self.times, self.errors = times, errors or {}
        self.made: list[Any] = []
        self._now = 0.0

    def make(self, choice: Any) -> Callable[[], None]:
        self.made.append(choice)
        if choice in self.errors:
            raise self.errors[choice]

        def call() -> None:
            self._now = self.times.get(choice, 1.0)

        return call

    def measure(self, call: Callable[[], None]) -> float:
        call()
        return self._now


def tuner(bench: Bench | None, path: Path | None = None, name: str = "H200") -> Tuner:
    return Tuner(name, path, None if bench is None else bench.measure)


def never(choice: Any) -> Callable[[], None]:
    raise AssertionError(f"{choice} was built")


def test_the_fastest_candidate_is_chosen_and_each_is_measured_once() -> None:
    bench = Bench({ADDMM: 1.0, SPLIT: 0.5, TRITON: 0.7})
    chooser = tuner(bench)
    assert chooser.linear(PROJ, bench.make) == SPLIT
    assert bench.made == list(linear_candidates(PROJ))
    assert chooser.measured == len(bench.made) > 10
    assert chooser.seconds > 0
    assert chooser.linear(PROJ, never) == SPLIT
    assert (chooser.notes, chooser.skipped) == ([], [])


def test_attention_is_chosen_in_the_same_way() -> None:
    bench = Bench({AttentionConfig("cudnn"): 0.4})
    chooser = tuner(bench)
    assert chooser.attention(HEADS, bench.make) == AttentionConfig("cudnn")
    assert bench.made == list(attention_candidates(HEADS))


def test_a_gain_within_the_noise_leaves_the_default() -> None:
    for gain, winner in ((0.981, ADDMM), (0.98, ADDMM), (0.979, SPLIT)):
        bench = Bench({ADDMM: 1.0, SPLIT: gain})
        assert tuner(bench).linear(PROJ, bench.make) == winner


def test_of_two_equally_fast_the_earlier_candidate_wins() -> None:
    bench = Bench({SPLIT: 0.5, TRITON: 0.5})
    order = linear_candidates(PROJ)
    assert order.index(TRITON) < order.index(SPLIT)
    assert tuner(bench).linear(PROJ, bench.make) == TRITON


def test_without_a_clock_nothing_is_built_and_the_default_is_used() -> None:
    chooser = tuner(None)
    assert chooser.linear(FC1, never) == LinearConfig("addmm_activation")
    assert chooser.attention(HEADS, never) == attention_candidates(HEADS)[0]
    assert (chooser.measured, chooser.seconds) == (0, 0.0)


def test_on_a_cpu_the_default_is_what_a_cpu_computes_rightly() -> None:
    assert Tuner("cpu", None, None, device="cpu").linear(FC1, never) == ADDMM
    bench = Bench({LinearConfig("addmm_activation"): 0.1})
    assert Tuner("cpu", None, bench.measure, device="cpu").linear(FC1, bench.make) == ADDMM


def triton_error() -> Exception:
    errors = pytest.importorskip("triton.runtime.errors")
    error: Exception = errors.OutOfResources(300000, 232448, "shared memory")
    return error


@pytest.mark.parametrize(
    "error", [RuntimeError("no kernel\nsecond line"), ValueError("tile"), WrongResult("off"), None]
)
def test_a_candidate_that_fails_is_skipped_and_its_reason_kept(error: Exception | None) -> None:
    raised = triton_error() if error is None else error
    bench = Bench({SPLIT: 0.1, TRITON: 0.5}, {SPLIT: raised})
    chooser = tuner(bench)
    assert chooser.linear(PROJ, bench.make) == TRITON
    (reason,) = chooser.skipped
    assert reason.startswith(f"{PROJ}: {SPLIT}: {type(raised).__name__}: ")
    assert str(raised).splitlines()[0] in reason
    assert "second line" not in reason


@pytest.mark.parametrize("error", [TypeError("bug"), CaptureInProgress("now"), KeyboardInterrupt()])
def test_a_bug_and_a_capture_are_not_taken_for_a_candidate_that_does_not_fit(
    error: Exception, tmp_path: Path
) -> None:
    bench = Bench({}, {SPLIT: error})
    chooser = tuner(bench, tmp_path / "tune.json")
    with pytest.raises(type(error)):
        chooser.linear(PROJ, bench.make)
    assert not list(tmp_path.iterdir())
    bench.errors.clear()
    assert chooser.linear(PROJ, bench.make) == ADDMM


@pytest.mark.parametrize("said", [True, None, False])
def test_a_wrong_result_is_never_chosen(said: bool | None) -> None:
    bench = Bench({SPLIT: 0.1})
    chooser = tuner(bench)
    winner = chooser.linear(PROJ, bench.make, lambda choice: said if choice == SPLIT else True)
    assert winner == (ADDMM if said is False else SPLIT)
    assert len(chooser.skipped) == (said is False)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_time_that_is_none_does_not_win(seconds: float) -> None:
    bench = Bench({SPLIT: seconds})
    chooser = tuner(bench)
    assert chooser.linear(PROJ, bench.make) == ADDMM
    assert len(chooser.skipped) == 1


def test_where_the_default_fails_the_fastest_of_the_rest_is_chosen() -> None:
    bench = Bench({TRITON: 0.999}, {ADDMM: RuntimeError("no")})
    assert tuner(bench).linear(PROJ, bench.make) == TRITON


def test_where_all_fail_the_default_stays_is_noted_and_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    bench = Bench({}, {choice: RuntimeError("no GPU") for choice in linear_candidates(PROJ)})
    chooser = tuner(bench, path)
    assert chooser.linear(PROJ, bench.make) == ADDMM
    assert chooser.notes == [f"{PROJ}: no candidate ran; addmm stays, unmeasured"]
    assert not path.exists()
    assert chooser.linear(PROJ, never) == ADDMM


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
    assert [entry.name for entry in path.parent.iterdir()] == ["tune.json"]


def test_another_gpu_library_or_kernel_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tune.json"
    bench = Bench({SPLIT: 0.1})
    tuner(bench, path).linear(PROJ, bench.make)
    keys = {machine.machine_key("H200")}
    assert tuner(None, path, "B200").linear(PROJ, never) == ADDMM
    for name, value in (
        ("torch.__version__", "9.9"),
        ("triton.__version__", "9.9"),
        ("l2c_rt.backends.cuda.tuning.machine.LINEAR_TILES", ()),
        ("l2c_rt.backends.cuda.tuning.machine.KERNEL_FILES", ("linear",)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            keys.add(machine.machine_key("H200"))
            assert tuner(None, path).linear(PROJ, never) == ADDMM
    assert len(keys) == 5
    assert tuner(None, path).linear(PROJ, never) == SPLIT


def kept(path: Path, entries: Any) -> bytes:
    """A file with these entries for the machine of the tests."""
    whole = {"version": 1, "machines": {machine.machine_key("H200"): entries}}
    text = json.dumps(whole).encode()
    path.write_bytes(text)
    return text


def entry(**changed: Any) -> dict[str, Any]:
    return {"problem": PROJ.to_json(), "choice": SPLIT.to_json() | changed}


def test_the_file_is_read_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    kept(path, [entry()])
    assert tuner(None, path).linear(PROJ, never) == SPLIT


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "os.system"},
        {"kind": ["split"]},
        {"kind": "addmm"},
        {"kind": "triton"},
        {"tile": None},
        {"tile": [64, 128, 64, 4, 4]},
        {"tile": [64, 128, 64, 4, 4, 8, 1]},
        {"tile": [64, 128, 64, 4, 4, -8]},
        {"tile": [64, 128, 64, 4, 4.0, 8]},
        {"tile": [64, 128, 64, 4, True, 8]},
        {"tile": "64x128"},
        {"tile": [1 << 20, 128, 64, 4, 4, 8]},
        {"splits": 1},
        {"splits": 5},
        {"splits": 10**9},
        {"splits": "2"},
        {"more": 1},
    ],
)
def test_an_entry_that_is_no_candidate_is_ignored(changed: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    kept(path, [entry(**changed)])
    assert tuner(None, path).linear(PROJ, never) == ADDMM


@pytest.mark.parametrize(
    ("kind", "tile", "splits"),
    [
        ("addmm", [64, 64, 64, 4, 4, 8], 1),
        ("addmm", None, 2),
        ("triton", None, 1),
        ("triton", [64, 64, 64, 4, 4], 1),
        ("triton", [64, 64, 64, 4, 4, 8, 1], 1),
        ("triton", [64, 64, 64, 4, 4, 0], 1),
        ("triton", [64, 64, 64, 4, True, 8], 1),
        ("triton", {"0": 64}, 1),
        ("triton", [64, 64, 64, 4, 4, 8], 2),
        ("split", [64, 64, 64, 4, 4, 8], 1),
        ("split", [64, 64, 64, 4, 4, 8], 17),
        ("cudnn", None, 1),
        (["addmm"], None, 1),
        (None, None, 1),
    ],
)
def test_a_choice_that_is_none_is_not_made(kind: Any, tile: Any, splits: Any) -> None:
    given = {"kind": kind, "tile": tile, "splits": splits}
    assert LinearConfig.from_json(given) is None


@pytest.mark.parametrize(
    ("kind", "tile"),
    [
        ("cudnn", [64, 64, 4, 2, 255]),
        ("triton", None),
        ("triton", [64, 64, 4, 2]),
        ("triton", [64, 64, 4, 2, 255, 1]),
        ("triton", [64, 64, 4, 2, 1 << 50]),
        ("split", [64, 64, 4, 2, 255]),
        (["cudnn"], None),
    ],
)
def test_an_attention_choice_that_is_none_is_not_made(kind: Any, tile: Any) -> None:
    assert AttentionConfig.from_json({"kind": kind, "tile": tile}) is None


def test_json_that_is_no_object_is_no_choice_and_no_problem() -> None:
    for kind in (LinearConfig, AttentionConfig, LinearProblem, AttentionProblem):
        for got in (None, 1, "addmm", [], {}, [["kind", "addmm"]]):
            assert kind.from_json(got) is None


@pytest.mark.parametrize("changed", [{"heads": 0}, {"dtype": "int8"}, {"batch": "2"}, {"more": 1}])
def test_an_attention_problem_that_is_none_is_ignored(changed: dict[str, Any]) -> None:
    assert AttentionProblem.from_json(HEADS.to_json() | changed) is None


@pytest.mark.parametrize(
    "changed",
    [{"rows": 0}, {"rows": True}, {"rows": 512.0}, {"bias": 1}, {"gelu": "relu"}, {"gelu": 0},
     {"dtype": "int8"}, {"dtype": ["bfloat16"]}, {"splittable": None}, {"more": 1}],
)  # fmt: skip
def test_a_problem_that_is_none_is_ignored(changed: dict[str, Any]) -> None:
    assert LinearProblem.from_json(PROJ.to_json()) == PROJ
    assert LinearProblem.from_json(PROJ.to_json() | changed) is None


@pytest.mark.parametrize("entries", [{}, None, "x", [1, None, [], {}, {"problem": 1, "choice": 2}]])
def test_entries_of_another_shape_are_ignored(entries: Any, tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    kept(path, entries)
    bench = Bench({SPLIT: 0.1})
    chooser = tuner(bench, path)
    assert chooser.linear(PROJ, bench.make) == SPLIT
    assert chooser.notes == []
    assert tuner(None, path).linear(PROJ, never) == SPLIT


@pytest.mark.parametrize(
    "problem",
    [PROJ, FC1, HEADS, LinearProblem(1, 8, 8, False, "none", "float32", False)],
)
def test_every_candidate_survives_its_json(problem: LinearProblem | AttentionProblem) -> None:
    text = json.loads(json.dumps(problem.to_json()))
    if isinstance(problem, LinearProblem):
        assert LinearProblem.from_json(text) == problem
        assert AttentionProblem.from_json(text) is None
        for choice in linear_candidates(problem):
            assert LinearConfig.from_json(json.loads(json.dumps(choice.to_json()))) == choice
    else:
        assert AttentionProblem.from_json(text) == problem
        assert LinearProblem.from_json(text) is None
        for mixed in attention_candidates(problem):
            assert AttentionConfig.from_json(json.loads(json.dumps(mixed.to_json()))) == mixed


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
    before = kept(path, [entry()])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tuned_file.os, "replace", full)
    bench = Bench({})
    chooser = tuner(bench, path)
    chooser.linear(FC1, bench.make)
    assert "No space left" in chooser.notes[0]
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [
        ("tune.json", before)
    ]


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


def test_writers_at_the_same_time_never_leave_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    problems = [LinearProblem(rows, 8, 8, True, None, "float32", False) for rows in range(1, 25)]
    notes: list[str] = []

    def work(mine: list[LinearProblem]) -> None:
        bench = Bench({})
        chooser = tuner(bench, path)
        for problem in mine:
            chooser.linear(problem, bench.make)
            tuned_file.read_choices(path, chooser.machine)
        notes.extend(chooser.notes)

    threads = [threading.Thread(target=work, args=(problems[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes == []
    found = tuned_file.read_choices(path, machine.machine_key("H200"))
    # Of two writes at one instant one is lost, but the last one holds all that its writer knows.
    assert len(found) >= len(problems) // 4
    assert set(found.values()) == {ADDMM}
    assert [file.name for file in tmp_path.iterdir()] == ["tune.json"]


def test_other_machines_make_room_before_a_file_grows_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tune.json"
    bench = Bench({SPLIT: 0.1})
    tuner(bench, path, "B200").linear(PROJ, bench.make)
    size = path.stat().st_size
    monkeypatch.setattr(tuned_file, "MAX_BYTES", size + 100)
    tuner(bench, path).linear(PROJ, bench.make)
    assert tuner(None, path).linear(PROJ, never) == SPLIT
    assert tuner(None, path, "B200").linear(PROJ, never) == ADDMM
    monkeypatch.setattr(tuned_file, "MAX_BYTES", size)
    chooser = tuner(bench, path)
    chooser.linear(FC1, bench.make)
    assert "to write, wanted at most" in chooser.notes[-1]
    assert tuner(None, path).linear(PROJ, never) == SPLIT


def test_two_threads_do_not_measure_at_the_same_time() -> None:
    inside, most = [0], [0]

    def measure(call: Callable[[], None]) -> float:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        call()
        threading.Event().wait(0.002)
        inside[0] -= 1
        return 1.0

    bench = Bench({})
    chooser = Tuner("H200", None, measure)
    threads = [
        threading.Thread(target=chooser.linear, args=(problem, bench.make))
        for problem in (PROJ, PROJ, FC1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len(bench.made) == len(linear_candidates(PROJ)) + len(linear_candidates(FC1))


def test_choices_are_kept_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert machine.default_path() == tmp_path / ".cache" / "l2c_rt" / "tune.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert machine.default_path() == tmp_path / "xdg" / "l2c_rt" / "tune.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert machine.default_path() == tmp_path / ".cache" / "l2c_rt" / "tune.json"
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    assert machine.default_path() == tmp_path / "Library" / "Caches" / "l2c_rt" / "tune.json"


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(machine.Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert machine.default_path() is None
