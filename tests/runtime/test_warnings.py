"""What summary() notes is warned of once, logged, and seen in a profile."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from toys import call_inputs, drive, toy_dit

import l2c_rt as rt
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import EveryN, Full


def test_every_reason_is_warned_of_once_at_the_users_line() -> None:
    model = toy_dit()
    model.blocks[0].register_forward_hook(lambda *_: None)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        fast = rt.compile(model, EveryN(2), steps=4, graph="off")
        for _ in range(3):
            drive(fast, 4)
            fast.sample(torch.randn(1, 4, 8, 8), [1])
    assert sorted(str(w.message) for w in warned) == sorted(fast.summary().reasons)
    assert {Path(w.filename).name for w in warned} == {Path(__file__).name}


def test_a_reason_that_appears_later_is_warned_of_then() -> None:
    model = toy_dit()
    fast = rt.compile(model, EveryN(2), steps=4)
    drive(fast, 4)
    model.blocks[0].register_forward_hook(lambda *_: None)
    with pytest.warns(L2CWarning, match="forward hooks on DiTBlock are not called") as warned:
        fast(*call_inputs(0))
    assert warned[0].filename == __file__
    fast.reset()
    drive(fast, 4)


def test_a_warning_made_an_error_is_one_error_and_leaves_the_model_usable() -> None:
    model = toy_dit()
    fast = rt.compile(model, EveryN(2), steps=4)
    model.blocks[0].register_forward_hook(lambda *_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(L2CWarning):
            fast(*call_inputs(0))
        plain = drive(rt.compile(toy_dit(), EveryN(2), steps=4), 4)
        assert all(torch.equal(a, b) for a, b in zip(drive(fast, 4), plain, strict=True))


def test_a_shorter_loop_is_warned_of_once_with_both_numbers() -> None:
    fast = rt.compile(toy_dit(), EveryN(2), steps=4)
    drive(fast, 3)
    with pytest.warns(L2CWarning, match="after 3 of 4 evaluations"):
        drive(fast, 3, seed=1)
    drive(fast, 2, seed=2)
    drive(fast, 4, seed=3)


def test_a_session_closed_in_mid_run_warns_with_both_numbers_unless_an_error_closed_it() -> None:
    fast = rt.compile(toy_dit(), EveryN(2), steps=4)
    session = fast.session()
    drive(session, 3)
    session.__exit__(KeyError, KeyError(), None)
    with pytest.warns(L2CWarning, match="closed after 3 of 4 evaluations"), fast.session() as other:
        drive(other, 3)
    assert "closed after 3 of 4" in str(fast.summary())


def test_a_pipelines_loop_that_ends_early_warns_with_both_numbers() -> None:
    fast = rt.compile(toy_dit(), EveryN(2), steps=4)
    drive(fast, 4)
    fast._reset_stateful_cache()
    drive(fast, 3, seed=1)
    with pytest.warns(L2CWarning, match="pipeline's loop ended after 3 of 4 evaluations"):
        fast._reset_stateful_cache()
    assert fast.summary().abandoned == 1


@pytest.mark.parametrize("strict", [False, True])
def test_a_run_that_cannot_be_proved_warns_and_strict_refuses_it(strict: bool) -> None:
    fast = rt.compile(toy_dit(), EveryN(2), steps=4, strict=strict)
    fast(*call_inputs(0))
    x, t, y = call_inputs(1, seed=3)
    if strict:
        with pytest.raises(ValueError, match="strict: a run was computed in full from step 1"):
            fast(x, t, y)
        assert not fast.run.clock.mid_run
    else:
        with pytest.warns(L2CWarning, match="Pass timesteps= to compile"):
            fast(x, t, y)
        assert "computed in full from step 1" in str(fast.summary())


def test_the_log_has_what_is_compiled_and_noted(caplog: pytest.LogCaptureFixture) -> None:
    model = toy_dit()
    with caplog.at_level(logging.INFO, "l2c_rt"):
        fast = rt.compile(model, EveryN(2), steps=4)
        drive(fast, 4)
        model.blocks[0].mlp.fc1.weight.data = model.blocks[0].mlp.fc1.weight.data.clone()
        drive(fast, 4)
    texts = [record.getMessage() for record in caplog.records]
    assert any("compiled DiT" in text for text in texts)
    assert any("the model changed" in text for text in texts)
    assert not logging.getLogger("l2c_rt").handlers


def test_a_profile_shows_runs_and_evaluations_by_number() -> None:
    fast = rt.compile(toy_dit(), EveryN(2), steps=3)
    with torch.profiler.profile(acc_events=True) as profile:
        drive(fast, 3)
        fast.sample(torch.randn(1, 4, 8, 8), [1])
    counts = {event.key: event.count for event in profile.key_averages()}
    assert {f"l2c_rt.evaluation {k}": counts.get(f"l2c_rt.evaluation {k}") for k in range(3)} == {
        f"l2c_rt.evaluation {k}": 2 for k in range(3)
    }
    assert counts["l2c_rt.run"] == 1


def test_a_loop_that_stops_half_way_leaves_no_range_open() -> None:
    fast = rt.compile(toy_dit(), EveryN(2), steps=6)
    with torch.profiler.profile(acc_events=True) as profile:
        for stop in (2, 3):
            with contextlib.suppress(KeyError), torch.profiler.record_function(f"loop {stop}"):
                drive(fast, stop)
                fast.reset()
                raise KeyError
        with pytest.raises(ValueError, match="x is"):
            fast(call_inputs(0)[0].half(), *call_inputs(0)[1:])
        with torch.profiler.record_function("after"):
            pass
    events = profile.events()
    ours = [event for event in events if event.name.startswith("l2c_rt.")]
    assert [event.cpu_parent.name for event in ours] == 2 * ["loop 2"] + 3 * ["loop 3"]
    assert next(event for event in events if event.name == "after").cpu_parent is None


def test_a_warning_that_nobody_catches_is_printed_once_and_by_no_handler() -> None:
    """In a process of its own, without pytest's filters and log capture."""
    program = (
        "import l2c_rt as rt\nfrom l2c_rt.models import DiT\nfrom l2c_rt.policies import Full\n"
        "m = DiT(input_size=4, hidden_size=16, depth=1, num_heads=2, num_classes=10).eval()\n"
        "rt.compile(m, Full(), steps=1, graph='off')\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("graph= has no effect here") == 1
    assert "L2CWarning" in run.stderr


def test_full_runs_need_no_word() -> None:
    drive(rt.compile(toy_dit(), Full(), steps=3), 3)
