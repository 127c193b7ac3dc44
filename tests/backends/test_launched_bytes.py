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

from l2c_rt.plan.lowering import Composed, Run, Sum


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
    for number in record.evaluations:
        told, counted = both(record, number)
        assert told - counted == uncounted_of_uvit(record, number)


@pytest.mark.parametrize("name", ["uvit-h-2-256/dpm-50", "uvit-h-2-256/dpm-20"])
def test_kernels_of_the_delta_form_move_the_bytes_that_cost_counts(name: str) -> None:
    record, compared = recorded(name, delta_form=True), 0
    for number in record.evaluations:
        row = record.lowered(number)
        sums = [launch for launch in row if isinstance(launch, Composed)]
        # A third product is cuBLAS's, which tells no bytes.
        if all(len(launch.sources) < 3 for launch in sums):
            told, counted = both(record, number)
            more = uncounted_of_uvit(record, number) + left_out(record).absent_biases(len(sums))
            assert told - counted == more
            compared += bool(sums)
    assert compared > 5


def uncounted_of_uvit(record: Record, number: int) -> int:
    row, out = record.lowered(number), left_out(record)
    assert out.prefix_tokens == 2
    sums = 1 + sum(isinstance(launch, Sum) for launch in row)
    attentions = sum(isinstance(la, Run) and la.branch.startswith("attn") for la in row)
    more = out.latents(3) + out.prefix_latents() + out.positions()
    more += out.affine(sums) + out.absent_bias(attentions)
    return more - out.variance() - out.prefix_at_the_end(len(row[-1].terms))
