"""Arguments that public functions share are checked alike, before the model runs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.arguments import CHECKS, check_arguments

FUNCTIONS: dict[Callable[..., Any], dict[str, Any]] = {
    rt.calibrate: {"steps": 4},
    rt.compare: {"methods": [rt.methods.FORA(2)], "steps": 4},
    rt.fit_corrector: {"router": rt.methods.FORA(2), "steps": 4},
    rt.fit_report: {"router": rt.methods.FORA(2)},
    rt.fit_scale_shift: {"method": rt.methods.FORA(2), "steps": 4},
    rt.learn: {"steps": 4},
    rt.search: {"steps": 4, "reuse": 0.3},
}
ELSEWHERE = {"fit_scale_shift": {"steps"}, "fit_corrector": {"steps"}, "compare": {"steps"}}
"""Arguments that a function checks with what they are for."""


def shared_arguments() -> Iterator[tuple[Callable[..., Any], str]]:
    for function in FUNCTIONS:
        for name in inspect.signature(function).parameters:
            if name in CHECKS and name not in ELSEWHERE.get(function.__name__, ()):
                yield function, name


@pytest.mark.parametrize(
    ("function", "name"),
    [pytest.param(f, n, id=f"{f.__name__}-{n}") for f, n in shared_arguments()],
)
def test_a_wrong_argument_is_named_before_the_model_runs(
    function: Callable[..., Any], name: str
) -> None:
    model, arguments = toy_dit(depth=1), FUNCTIONS[function] | {name: object()}
    ran = []
    model.x_embedder.register_forward_hook(lambda *_: ran.append(True))
    with pytest.raises((ValueError, TypeError), match=rf"{function.__name__}: {name} is <object"):
        function(model, **arguments)
    assert not ran


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 10**12), ("steps", True), ("steps", 2.0), ("images", 10**12), ("images", 0),
        ("batch_size", np.float64(2)), ("calls_per_step", 65), ("seed", -1), ("seed", 2**63),
        ("seed", 1.0), ("cfg_scale", math.nan), ("cfg_scale", True), ("cfg_scale", "4"),
        ("cfg_scale", np.float32(4)),
        ("cfg_scale", 1e300), ("lr", math.inf), ("lam", -1), ("reuse", 1.5), ("peak", math.nan),
        ("minutes", None), ("history", 0), ("resume", 1), ("progress", None), ("out", ""),
        ("folder", b"x"), ("labels", []), ("labels", 3), ("data", "ab"), ("loop", 3),
    ],
)  # fmt: skip
def test_values_of_another_kind_and_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"search: {name} is "):
        check_arguments("search", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("cfg_scale", None), ("cfg_scale", -1), ("seed", 2**63 - 1),
     ("steps", 10_000), ("reuse", 0), ("iterations", None), ("labels", np.arange(3)),
     ("data", iter(())), ("lr", 1e-3)],
)  # fmt: skip
def test_what_is_right_passes(name: str, value: object) -> None:
    check_arguments("search", **{name: value})
