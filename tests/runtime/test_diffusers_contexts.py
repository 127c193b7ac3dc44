"""What the pipelines of the installed diffusers pass to `cache_context`, all of it, is taken."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from diffusers_contexts import PassedOn, context_fields, passed_by_pipelines
from three_backends import STEPS, fresh
from toys import call_inputs

SPEC = importlib.util.find_spec("diffusers")
if SPEC is None or SPEC.origin is None:
    pytest.skip("diffusers is not installed", allow_module_level=True)
PACKAGE = Path(SPEC.origin).parent

NAMES = {
    "cond", "uncond", "cond_uncond", "uncond_stg", "uncond_modality", "cond_no_control",
    "pred_cond", "pred_uncond", "pred_cond_skip", "pred_cond_seg", "pred_cond_stg",
    "pred_cond_modality",
}  # fmt: skip
"""Of diffusers 0.42.  Before you add one: is it a lane of its own, or another name for one?"""


@pytest.fixture(scope="module")
def passed() -> PassedOn:
    return passed_by_pipelines(PACKAGE)


def test_the_source_of_every_name_and_keyword_is_followed(passed: PassedOn) -> None:
    assert passed.calls > 100
    assert passed.unknown == set()


def test_there_is_no_name_that_nobody_has_looked_at(passed: PassedOn) -> None:
    assert passed.names == NAMES


def test_there_is_no_keyword_that_nobody_has_looked_at(passed: PassedOn) -> None:
    assert passed.keywords == {"step_index", "sigma", "num_inference_steps"}
    assert context_fields(PACKAGE) == passed.keywords | {"timestep"}


def test_every_name_is_taken_with_every_field_of_diffusers_own_context(passed: PassedOn) -> None:
    values = {"step_index": 0, "num_inference_steps": STEPS, "sigma": 0.5, "timestep": 3.0}
    assert set(values) == context_fields(PACKAGE)
    for name in passed.names:
        fast = fresh(calls_per_step=2)
        with fast.cache_context(name=name, **values):
            fast(*call_inputs(0))
