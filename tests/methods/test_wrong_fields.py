"""No method takes a value that is none of its field's kind: told at once, by class and field."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import pytest
from toys import timesteps, toy_dit

import l2c_rt as rt
from l2c_rt import methods

TABLE = {"attn": np.full((3, 5), 0.1)}
REQUIRED: dict[str, dict[str, Any]] = {
    "MagCache": {"mag_ratios": "flux"}, "SmoothCache": {"errors": TABLE},
    "BlockCaching": {"changes": TABLE}, "TeaCache": {"threshold": 0.1},
}  # fmt: skip
NOTHING = object()
WRONG: dict[type, tuple[Any, ...]] = {
    bool: ("yes", 1, None),
    float: (math.nan, math.inf, True, "0.1", [0.1]),
    int: (2.5, True, "2", math.nan, -7),
    str: ("no such", 3, NOTHING),
    tuple: (NOTHING, 5, None, "ab", (1,), (2, 1), (math.nan, 1)),
    type(None): (NOTHING, 2j, [NOTHING]),
}


def wrong_fields(name: str) -> Iterator[tuple[str, Any]]:
    for field in fields(getattr(methods, name)):
        default = field.default
        if name == "TeaCache" and field.name == "threshold":
            default = 0.1
        for value in () if default is MISSING else WRONG.get(type(default), ()):
            if field.name != "non_prune_block_ids" or value not in ((1,), (2, 1)):
                yield field.name, value


@pytest.mark.parametrize("name", methods.__all__)
def test_a_value_of_another_kind_is_refused_by_class_and_field(name: str) -> None:
    for field, value in wrong_fields(name):
        with pytest.raises((ValueError, TypeError), match=rf"\b{field}\b"):
            getattr(methods, name)(**REQUIRED.get(name, {}) | {field: value})


def test_every_field_has_such_values() -> None:
    """All but those without a default, which are tables and files."""
    for name in methods.__all__:
        names = {field.name for field in fields(getattr(methods, name))}
        assert names - {field for field, _ in wrong_fields(name)} <= {*REQUIRED.get(name, {})}


@pytest.mark.parametrize(
    ("callback", "make"),
    [
        ("attention_weight_callback", lambda path, t: "heavy"),
        ("low_frequency_weight_callback", lambda t: math.nan),
        ("high_frequency_weight_callback", lambda t: None),
    ],
)
def test_a_function_that_gives_no_number_is_named_before_the_run(callback: str, make: Any) -> None:
    method = methods.FasterCache(**{callback: make})
    with pytest.raises(ValueError, match=f"what {callback} gives is .*, wanted a number"):
        method.schedule(10, ("attn-0", "mlp-0"), timesteps=range(600, 500, -10))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: methods.StepsMask([1, 0.5]), "wanted zeros and ones"),
        (lambda: methods.MagCache(["a"]), "mag_ratios is 'a', wanted a number"),
        (lambda: methods.MagCache([[1.0]]), "mag_ratios is .*, wanted a number"),
        (lambda: methods.MagCache(3), "mag_ratios is 3, wanted a list of numbers"),
        (lambda: methods.TeaCache(0.1, 3.0), "coefficients is 3.0, wanted a list"),
        (lambda: methods.PAB(2, spatial_attention_timestep_skip_range=(True, 800)), "timesteps"),
        (lambda: methods.FasterCache(halved_arguments="x"), "halved_arguments is 'x'"),
        (lambda: methods.FasterCacheScript(attention_weight=math.nan), "attention_weight is nan"),
    ],
)
def test_a_list_or_window_of_another_kind_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": "6"}, "steps is '6', wanted an int"),
        ({"steps": True}, "steps is True, wanted an int"),
        ({"steps": 6, "timesteps": "abcdef"}, "timesteps: got 'abcdef'"),
    ],
)
def test_a_run_that_is_none_is_refused_at_compile(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rt.compile(toy_dit(), "fora", **options)


def test_a_fit_at_other_timesteps_than_those_of_the_run_is_refused() -> None:
    model, policy = toy_dit(), methods.FORA(2)
    fit = rt.fit_corrector(model, policy, steps=6, runs=1, batch_size=1, progress=False)
    rt.compile(model, policy, steps=6, corrector=fit, timesteps=fit.fit.timesteps)
    with pytest.raises(ValueError, match="fitted at other timesteps"):
        rt.compile(model, policy, steps=6, corrector=fit, timesteps=timesteps(6)[::-1])
