"""search: what it measures, in the published loop and the user's own; resumed; refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import run_loop, times, two_stream_model
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.searching.candidates import FIRST
from l2c_rt.searching.checkpoint import Checkpoint
from l2c_rt.searching.trials import PLACES, Trials

STEPS = 6
OPTIONS = {"steps": STEPS, "reuse": 0.4, "minutes": 0, "batch_size": 2, "progress": False}


@pytest.fixture(autouse=True)
def of_few_candidates(monkeypatch):
    """What is tried at least is tried on numbers in the tests of candidates."""
    monkeypatch.setattr("l2c_rt.searching.search.FIRST", FIRST[:2])


def own_loop(model, seed):
    with torch.no_grad():
        return torch.stack(run_loop(model, STEPS))


@pytest.mark.parametrize("corrector", [None, "fitted"])
def test_the_schedule_reuses_the_share_and_compiles(corrector, tmp_path):
    model, out = toy_dit(), tmp_path / "found.json"
    schedule = rt.search(model, out=out, corrector=corrector, **OPTIONS)
    assert 0.33 < schedule.reuse_share < 0.5
    assert (schedule.predictions is not None) == (corrector == "fitted")
    assert rt.CacheSchedule.load(out) == schedule
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert rt.compile(model, out).schedule == schedule


def test_a_branch_that_changes_nothing_is_reused_first():
    model = toy_dit()
    with torch.no_grad():
        model.blocks[1].adaLN_modulation[-1].weight[2 * 32 : 3 * 32].zero_()
        model.blocks[1].adaLN_modulation[-1].bias[2 * 32 : 3 * 32].zero_()
    schedule = rt.search(model, corrector=None, **OPTIONS | {"reuse": 0.05, "ages": 5})
    k = schedule.branches.index("attn-1")
    reused = ~schedule.compute
    assert reused[:, k].any()
    assert not np.delete(reused, k, axis=1).any()


def test_a_loop_of_the_users_own_is_searched():
    schedule = rt.search(two_stream_model(), own_loop, **OPTIONS)
    fast = rt.compile(two_stream_model(), schedule)
    assert schedule.timesteps == pytest.approx(times(STEPS))
    assert torch.isfinite(own_loop(fast, 0)).all()


@pytest.mark.parametrize(
    ("reuse", "cheap"), [(0.25, [False, True, False, True]), (0.5, [True] * 4)]
)
def test_an_evaluation_counts_as_much_as_runs_show_that_reuse_some_or_all_of_it_alone(
    monkeypatch, reuse, cheap
):
    """The errors say 1 of every cheap branch, and what runs end in grows as e^s."""
    seen = []

    def ends_in(_, compute):
        (s,) = np.flatnonzero(~compute.all(axis=1))
        seen.append((~compute[s]).tolist())
        return float(s)

    monkeypatch.setattr(Trials, "_seen_error", ends_in)
    errors = np.ones((40, 4, 3)) * np.array([9.0, 1.0, 4.0, 1.0])[None, :, None]
    weights = Trials(None, predicts=False).weights(errors, np.ones(4), reuse, lambda: None)
    assert seen == [cheap] * (PLACES // 2) + [[True] * 4] * (PLACES // 2)
    np.testing.assert_allclose(weights[:, 1:], [np.arange(1, 40) - 39.0] * 2, atol=1e-6)


def test_a_search_that_was_stopped_is_taken_up(tmp_path, monkeypatch):
    out, save = tmp_path / "found.json", Checkpoint.save

    def save_and_stop(self, *known):
        save(self, *known)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        rt.search(toy_dit(), out=out, **OPTIONS)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"begun with .*reuse.* now it is"):
        rt.search(toy_dit(), out=out, resume=True, **OPTIONS | {"reuse": 0.3})
    calls = []
    monkeypatch.setattr(rt.searching.search.Sensitivity, "call", lambda *a: calls.append(a))
    content = (state := tmp_path / "found.search.safetensors").read_bytes()
    resumed = rt.search(toy_dit(), out=out, resume=True, **OPTIONS)
    monkeypatch.undo()
    assert not calls
    state.write_bytes(content.replace(b'"version":"3"', b'"version":"2"'))
    with pytest.raises(ValueError, match="another version of l2c_rt began the search"):
        rt.search(toy_dit(), out=out, resume=True, **OPTIONS)
    assert resumed == rt.search(toy_dit(), **OPTIONS)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"steps": 1}, "search: steps is 1"),
        ({"reuse": 0.9}, r"search: reuse is 0\.9, wanted a share in 0\.\.0\.667"),
        ({"minutes": -1}, "search: minutes is -1"),
        ({"corrector": "goc"}, "search: corrector is 'goc'"),
        ({"ages": 0}, "search: ages is 0"),
        ({"out": "found.txt"}, "saved as .json"),
    ],
)
def test_bad_arguments_are_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        rt.search(toy_dit(), **OPTIONS | argument)
