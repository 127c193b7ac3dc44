"""The published sizes as programs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from l2c_rt import adapters, models
from l2c_rt.families import DIT, UVIT, Family
from l2c_rt.plan.program import Fixed
from l2c_rt.plan.published import dit_program, published_program


@pytest.mark.parametrize(
    ("family", "make"),
    [(DIT, lambda: models.dit("dit-xl-2")), (UVIT, lambda: models.uvit("uvit-h-2"))],
)
def test_the_published_sizes_are_those_of_the_published_models(
    family: Family, make: Callable[[], torch.nn.Module]
) -> None:
    with torch.device("meta"):
        model = make()
    assert adapters.bind(model).program == published_program(family, family.published)


def test_an_embedder_per_block_is_counted_once_per_block_and_for_the_final_layer() -> None:
    sizes = {"width": 32, "tokens": 16, "frequencies": 8}
    shared = dit_program([64, 64, 64], **sizes)
    apart = dit_program([64, 64, 64], embedder_per_block=True, **sizes)
    embedder = 8 * 32 + 32 * 32
    macs = [sum(node.macs for node in program.nodes) for program in (shared, apart)]
    assert macs[1] - macs[0] == 3 * embedder
    fixed = {node.name: node for node in apart.nodes if isinstance(node, Fixed)}
    assert fixed["modulation-0"].weights - 6 * 32 * 33 == embedder
