"""Every family of diffusers that a tiny config builds, by the model's own forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cached_oracle import Oracle
from diffusers_families import Family, first_tensor
from diffusers_image_families import IMAGE_FAMILIES
from diffusers_more_image_families import MORE_IMAGE_FAMILIES
from diffusers_more_video_families import MORE_VIDEO_FAMILIES
from diffusers_video_families import VIDEO_FAMILIES
from torch import Tensor, nn

from l2c_rt import api
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.describe import describe_own
from l2c_rt.policies import Full, Random

STEPS = 5
FAMILIES = IMAGE_FAMILIES | MORE_IMAGE_FAMILIES | VIDEO_FAMILIES | MORE_VIDEO_FAMILIES
every_family = pytest.mark.parametrize("name", FAMILIES)
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi asks for one in float32.


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """Each family is built once: no test writes to a model."""
    return {}


def built(models: dict[str, Any], name: str) -> tuple[Family, Any]:
    if name not in models:
        models[name] = FAMILIES[name].build()
    return FAMILIES[name], models[name]


def timesteps(family: Family, described: BoundModel) -> list[float]:
    times = [described.begin(**family.at(step)).t for step in range(STEPS)]
    return [float(t.reshape(-1)[0]) for t in times]


def run(family: Family, model: Any, steps: int = STEPS) -> list[Tensor]:
    with torch.no_grad():
        return [first_tensor(model(**family.at(step))) for step in range(steps)]


def all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def snapshot(model: nn.Module) -> list[object]:
    """Everything about a model that a compiled one might touch."""
    return [
        (name, type(module), {k: id(v) for k, v in vars(module).items()},
         [(k, id(v)) for k, v in module._modules.items()],
         [(k, id(t), t.data_ptr(), t._version) for k, t in module.named_parameters(recurse=False)],
         len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]  # fmt: skip


@every_family
def test_computing_everything_is_bitwise_the_model_and_leaves_it_as_it_was(
    models: dict[str, Any], name: str
) -> None:
    family, model = built(models, name)
    expected, before, keys = run(family, model), snapshot(model), list(model.state_dict())
    loop = timesteps(family, describe_own(model))
    full = api.compile(model, Full(), steps=STEPS, adapter=describe_own, timesteps=loop)
    assert full.backend.name == "own"
    assert all_equal(run(family, full), expected)
    assert snapshot(model) == before
    assert list(model.state_dict()) == keys


@every_family
def test_a_cached_run_is_bitwise_what_plain_hooks_give(models: dict[str, Any], name: str) -> None:
    family, model = built(models, name)
    described = describe_own(model)
    policy = Random(0.5, seed=3, evaluations=tuple(range(1, STEPS)))
    schedule = policy.schedule(STEPS, described.program.branch_names)
    loop = timesteps(family, described)
    fast = api.compile(model, schedule, adapter=describe_own, timesteps=loop)
    before = snapshot(model)
    outputs = run(family, fast)
    paths = {site.name: site.children[-1] for site in described.sites}
    assert all_equal(outputs, run(family, Oracle(model, schedule, paths)))
    assert not all_equal(outputs, run(family, model))
    run(family, fast, 2)
    fast.reset()
    fast.poison()
    assert all_equal(run(family, fast), outputs)
    assert snapshot(model) == before


def test_the_table_has_every_family_once() -> None:
    tables = (IMAGE_FAMILIES, MORE_IMAGE_FAMILIES, VIDEO_FAMILIES, MORE_VIDEO_FAMILIES)
    assert len({family.model for family in FAMILIES.values()}) == sum(map(len, tables))
