"""`l2c-rt fit` and `l2c-rt search`: the files that they write, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import done, run
from toys import toy_dit

import l2c_rt as rt

FIT = ("fit", "dit.safetensors", "router.safetensors", "--runs", "2", "--batch-size", "2")
SEARCH = ("search", "dit.safetensors", "--steps", "6", "--reuse", "0.4", "--minutes", "0",
          "--batch-size", "2")  # fmt: skip


@pytest.mark.parametrize("lanes", [False, True])
def test_fit_writes_the_predictors_of_a_schedule(folder: Path, lanes: bool) -> None:
    words = ("--lanes",) * lanes
    printed = done(*FIT, "--reuse", "0.5", "-o", "fit.safetensors", *words)
    fit = rt.correctors.Fitted.load("fit.safetensors").fit
    assert printed.startswith("fit.safetensors\n6 steps x 6 branches, dit, ddim")
    wanted = rt.fit_corrector(
        toy_dit(), rt.Router.load("router.safetensors").schedule(reuse=0.5), runs=2, batch_size=2,
        progress=False, lanes=lanes,
    )  # fmt: skip
    assert fit == wanted.fit
    assert "exists; give --force" in run(*FIT, "-o", "fit.safetensors").output


@pytest.mark.parametrize(("words", "predicts"), [((), True), (("--corrector", "none"), False)])
def test_search_writes_a_schedule_of_that_share(folder: Path, words, predicts) -> None:
    done(*SEARCH, "-o", "searched.json", *words)
    schedule = rt.CacheSchedule.load("searched.json")
    assert 0.33 < schedule.reuse_share < 0.5
    assert (schedule.predictions is not None) == predicts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*FIT, "-o", "fit.json"), "a fitted corrector is a .safetensors file"),
        ((*FIT, "-o", "nowhere/fit.safetensors"), "nowhere is not a folder"),
        ((*SEARCH, "-o", "searched.safetensors"), "a schedule is a .json file"),
        ((*SEARCH, "--reuse", "2", "-o", "searched.json"), "2.0 is not in the range"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_model_is_read(folder, words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ").replace("  ", " ")
