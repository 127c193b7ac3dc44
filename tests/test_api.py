"""compile compares the model with the one that the schedule was learned on."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toy_learning import learn_briefly
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.notices import L2CWarning


@pytest.fixture(scope="module")
def router() -> rt.Router:
    return learn_briefly(toy_dit())


def other() -> torch.nn.Module:
    model = toy_dit()
    with torch.no_grad():
        model.blocks[1].mlp.fc1.weight.mul_(1.5)
    return model


def all_forms(router: rt.Router, folder: Path) -> list[object]:
    """The router, the schedule of it, and files of both."""
    router.save(folder / "r.safetensors")
    router.schedule(reuse=0.5).save(folder / "s.json")
    return [router, router.schedule(reuse=0.5), folder / "r.safetensors", folder / "s.json",
            copy.deepcopy(router.schedule())]  # fmt: skip


def test_a_router_names_the_model_that_it_was_learned_on(router: rt.Router) -> None:
    assert router.fingerprint == model_fingerprint(toy_dit())


def test_the_model_of_the_router_is_taken_without_a_word(router: rt.Router, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in all_forms(router, tmp_path):
            rt.compile(toy_dit(), form)
            rt.compile(toy_dit().to(torch.bfloat16), form)


class Pipe:
    """As much of a pipeline as `enable` asks for."""

    def __init__(self, model: Any) -> None:
        self.transformer, self.scheduler = model, SimpleNamespace(timesteps=())


def test_another_model_warns_at_the_callers_line_and_strict_refuses_it(
    router: rt.Router, tmp_path: Path
) -> None:
    for form in all_forms(router, tmp_path):
        with pytest.warns(L2CWarning, match="learned on a model of other weights") as caught:
            rt.compile(other(), form)
        assert caught[0].filename == __file__
        with pytest.warns(L2CWarning, match="learned on a model of other weights") as caught:
            rt.enable(Pipe(other()), form)
        assert caught[0].filename == __file__
        with pytest.raises(ValueError, match="strict: compile: the schedule was learned on a mod"):
            rt.compile(other(), form, backend="reference", strict=True)


def test_what_was_not_learned_says_nothing_of_models() -> None:
    plain = rt.Router(np.zeros((6, 6), np.float32), "dit", 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in (plain, plain.schedule(), rt.policies.EveryN(2)):
            rt.compile(other(), form, steps=6)


def test_a_fingerprint_that_is_none_is_refused() -> None:
    for text in ("x", "shapes:0 bfloat16:0 float16:0", 3, None):
        with pytest.raises(ValueError, match="fingerprint is"):
            rt.Router(np.zeros((6, 4), np.float32), "dit", 6, fingerprint=text)
        with pytest.raises(ValueError, match="fingerprint is"):
            rt.CacheSchedule(np.ones((2, 2), bool), fingerprint=text)
