"""A model's place in a user's loop: which call is which, and what is seen of the model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from toys import toy_dit

from l2c_rt.runtime.calls import StepError
from l2c_rt.runtime.loop_model import LoopModel


def counting(calls_per_step: int) -> tuple[Any, list[tuple[int, int]]]:
    places: list[tuple[int, int]] = []
    model = LoopModel(toy_dit(depth=1), calls_per_step, lambda place, *_: places.append(place))
    return model, places


def test_calls_without_names_take_turns() -> None:
    model, places = counting(2)
    for _ in range(5):
        model()
    assert places == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]
    assert model.counts == (3, 2)


def test_names_tell_calls_apart_in_any_order() -> None:
    model, places = counting(2)
    for name in ("uncond", "cond", "cond", "uncond"):
        with model.cache_context(name):
            model()
    assert places == [(1, 0), (0, 0), (0, 1), (1, 1)]


def test_a_run_begins_anew_with_its_names() -> None:
    model, places = counting(2)
    for names in (("a", "b"), ("c", "d")):
        model.begin_run()
        for name in names:
            with model.cache_context(name):
                model()
    assert places == 2 * [(0, 0), (1, 0)]


def test_more_names_than_calls_are_refused_and_one_call_has_none() -> None:
    model, _ = counting(2)
    for name in ("a", "b"):
        with model.cache_context(name):
            model()
    with model.cache_context("c"), pytest.raises(StepError, match="one more call .* than the 2"):
        model()
    model, places = counting(1)
    for name in ("cond", "uncond"):
        with model.cache_context(name):
            model()
    assert places == [(0, 0), (0, 1)]


def test_it_is_a_module_of_the_models_class_and_not_copied() -> None:
    plain = toy_dit(depth=1)
    seen: list[Any] = []
    model = LoopModel(plain, 1, lambda place, args, kwargs: seen.append((args, kwargs)))
    assert isinstance(model, type(plain))
    assert [*model.parameters()] == [*plain.parameters()]
    model(torch.ones(1), t=2)
    assert seen == [((torch.ones(1),), {"t": 2})]
    with pytest.raises(TypeError, match="copy the model itself"):
        copy.deepcopy(model)
    assert "_on_call" not in vars(plain)
