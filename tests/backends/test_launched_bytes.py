"""Bytes that launches of published schedules move, by the kernels' own models and by `cost`."""

from __future__ import annotations

import pytest
from launch_effects import moved_bytes
from recorded_runs import (
    SCHEDULES,
    Record,
    recorded,
)
from uncounted_bytes import left_out

from l2c_rt.plan.lowering import Run, Sum


def both(record: Record, number: int) -> tuple[int, int]:
    """Bytes of an evaluation by the kernels' own models, and by cost."""
    told = sum(moved_bytes(entry) for entry in record.evaluation(number))
    counted = record.compiled.cost.cached[number]
    return told, counted.moved_bytes(batch=record.shape_program.buffers.shape.batch, itemsize=2)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name.startswith("dit")])
def test_kernels_of_dit_move_the_bytes_that_cost_counts(name: str) -> None:
    record = recorded(name)
    out = left_out(record)
    for number in record.evaluations:
        told, counted = both(record, number)
        more = out.latents(2 if record.alone(number) else 3) + out.positions()
        assert told - counted == more - out.variance()


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name.startswith("uvit")])
def test_kernels_of_uvit_move_the_bytes_that_cost_counts(name: str) -> None:
    record = recorded(name)
    out = left_out(record)
    assert out.prefix_tokens == 2
    for number in record.evaluations:
        row = record.lowered(number)
        told, counted = both(record, number)
        sums = 1 + sum(isinstance(launch, Sum) for launch in row)
        attentions = sum(isinstance(la, Run) and la.branch.startswith("attn") for la in row)
        more = out.latents(3) + out.prefix_latents() + out.positions()
        more += out.affine(sums) + out.absent_bias(attentions)
        assert told - counted == more - out.variance() - out.prefix_at_the_end(len(row[-1].terms))
