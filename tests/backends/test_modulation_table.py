"""The table of modulations: what it holds, in how many launches, and on which device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from launch_recorder import operators
from taped_graphs import TapedKernels, TapeRecorder
from torch import nn
from toys import (
    count_branches,
    random_schedule,
    toy_dit,
)

from l2c_rt.adapters import bind
from l2c_rt.backends.backend import fused_passes
from l2c_rt.backends.cuda.cuda_parts import CudaParts, FusedModel
from l2c_rt.backends.cuda.modulation_table import ModulationTable
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.options import Options
from l2c_rt.models import DiT
from l2c_rt.plan.prepare import prepare


def test_frequencies_that_a_model_makes_without_a_device_are_made_on_its_own() -> None:
    model = toy_dit().to("meta")
    made: list[str] = []

    def published(t: torch.Tensor) -> torch.Tensor:
        frequencies = torch.exp(-torch.arange(0, 16, dtype=torch.float32))
        made.append(frequencies.device.type)
        angles = t[:, None].float() * frequencies.to(device=t.device)[None]
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)

    model.t_embedder.forward = published  # type: ignore[method-assign]
    table_of(model, "meta").fill(4)
    assert made == ["meta"]


def table_of(model: nn.Module, device: str = "cpu") -> ModulationTable:
    """Four evaluations of two labels."""
    described = bind(model)
    plan, _ = prepare(described.program, random_schedule(4, count_branches(model)), fused_passes)
    cuda = CudaParts(TapedKernels(), TapeRecorder, Tuner("tape", None, None, device="cpu"))
    counter = torch.zeros(2, dtype=torch.int32, device=device)
    table = ModulationTable(FusedModel(described, plan, cuda, Options()), counter, range(2))
    table.t.copy_(torch.tensor([900.0, 500.0, 100.0, 0.0]))
    assert table.y is not None
    table.y.copy_(torch.tensor([3, 7]))
    return table


def by_the_models_own_modules(model: DiT, t: float, label: int) -> torch.Tensor:
    c = model.t_embedder(torch.tensor([t])) + model.y_embedder(torch.tensor([label]), False)
    rows = [part.adaLN_modulation(c) for part in (*model.blocks, model.final_layer)]
    return torch.cat(rows, dim=1).view(-1, model.pos_embed.shape[2])


def hooked(model: DiT) -> DiT:
    model.blocks[1].adaLN_modulation.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("change", [lambda model: model, hooked], ids=["plain", "hooked"])
def test_every_row_is_what_the_models_own_modules_give(change: Callable[[DiT], DiT]) -> None:
    model = change(toy_dit())
    table = table_of(model)
    with torch.no_grad():
        table.fill(4)
        for step, t in enumerate((900.0, 500.0, 100.0, 0.0)):
            for row, label in enumerate((3, 7)):
                expected = by_the_models_own_modules(model, t, label)
                assert (table.modulation.table[step, row] - expected).abs().max() < 1e-6


def test_a_block_takes_one_launch() -> None:
    def launches(depth: int) -> int:
        table = table_of(toy_dit(depth))
        with torch.no_grad(), operators() as (launched, _):
            table.fill(4)
        return len(launched)

    # The rest: embeddings, one SiLU, the biases of all blocks, the counter.
    assert launches(8) - launches(4) == 4
    assert launches(4) < 40


def test_weights_that_change_unseen_between_two_runs_are_read_anew() -> None:
    model = toy_dit()
    table = table_of(model)
    weight = model.blocks[2].adaLN_modulation[1].weight
    with torch.no_grad():
        table.fill(4)
        version = weight._version
        weight.data.mul_(2.0)
        # Why no table is kept from one run to the next.
        assert weight._version == version
        table.fill(4)
        expected = by_the_models_own_modules(model, 500.0, 7)
        assert (table.modulation.table[1, 1] - expected).abs().max() < 1e-6
