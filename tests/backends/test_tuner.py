"""Choosing by measurement: the rule."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from tuning_bench import ADDMM, FC1, HEADS, PROJ, SPLIT, TRITON, Bench, never, tuner

from l2c_rt.backends.cuda.tuning.candidates import attention_candidates, linear_candidates
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.tuning.chooser import CaptureInProgress, Chooser, WrongResult
from l2c_rt.backends.tuning.problems import (
    AttentionConfig,
    LinearConfig,
)


def test_the_fastest_candidate_is_chosen_and_each_is_measured_once() -> None:
    bench = Bench({ADDMM: 1.0, SPLIT: 0.5, TRITON: 0.7})
    chooser = tuner(bench)
    assert chooser.linear(PROJ, bench.make) == SPLIT
    assert bench.made == list(linear_candidates(PROJ))
    assert chooser.measured == len(bench.made) > 5
    assert chooser.seconds > 0
    assert chooser.linear(PROJ, never) == SPLIT
    assert (chooser.notes, chooser.skipped) == ([], [])


def test_a_busy_moment_does_not_decide_where_there_are_rounds() -> None:
    bench = Bench({ADDMM: 1.0, SPLIT: 0.8, TRITON: 0.9})
    timed: list[LinearConfig] = []

    def measure(call: Callable[[], None]) -> float:
        seconds = bench.measure(call)
        timed.append(bench.last)
        # Another program runs while the first round ends and the second begins.
        return seconds * (3.0 if len(timed) in (2, 3, 4) else 1.0)

    candidates = (ADDMM, SPLIT, TRITON)
    chooser = Chooser("CPU", None, measure, rounds=3)
    assert chooser.choose(PROJ, candidates, bench.make) == SPLIT
    assert timed == [*candidates, *reversed(candidates), *candidates]
    assert (bench.made, chooser.measured) == (list(candidates), 3)


def test_a_candidate_that_fails_in_a_later_round_is_not_timed_again() -> None:
    bench = Bench({ADDMM: 1.0, SPLIT: 0.5})
    timed: list[LinearConfig] = []

    def measure(call: Callable[[], None]) -> float:
        seconds = bench.measure(call)
        timed.append(bench.last)
        return float("nan") if timed[1:] == [SPLIT, SPLIT] else seconds

    chooser = Chooser("CPU", None, measure, rounds=3)
    assert chooser.choose(PROJ, (ADDMM, SPLIT), bench.make) == ADDMM
    assert timed == [ADDMM, SPLIT, SPLIT, ADDMM, ADDMM]
    assert len(chooser.skipped) == chooser.measured == 1


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


def test_a_candidate_that_pytorch_refuses_is_left_out_and_filters_of_warnings_are_left_alone() -> (
    None
):
    bench, filters = Bench({AttentionConfig("cudnn"): 0.4}), warnings.filters

    def make(choice: AttentionConfig) -> Callable[[], None]:
        # They are the process's: two threads that change them for a while may leave them changed.
        assert warnings.filters is filters
        if choice.kind == "flash":
            raise RuntimeError("No available kernel")
        return bench.make(choice)

    chooser = tuner(bench)
    assert chooser.attention(HEADS, make) == AttentionConfig("cudnn")
    assert len(chooser.skipped) == 1
