"""Slots of many requests, read and written as those of a batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2c_rt.memory.request_slots import RequestSlots

SHAPE = (3, 2)


def arena(rows: int = 8) -> RequestSlots:
    slots = RequestSlots(2, rows, SHAPE, torch.float32, torch.device("cpu"))
    slots.poison()
    return slots


def outputs(count: int, start: float = 0.0) -> torch.Tensor:
    return start + torch.arange(count * 6, dtype=torch.float32).view(count, *SHAPE)


@given(st.permutations(range(8)), st.integers(1, 8))
def test_what_a_batch_stores_each_sample_finds_in_any_other_batch(
    order: list[int], size: int
) -> None:
    slots, rows = arena(), order[:size]
    batch = slots.of(rows)
    batch.store(1, outputs(size))
    batch.commit([1])
    for sample, row in enumerate(rows):
        assert torch.equal(slots.of([row]).load(1), outputs(size)[sample : sample + 1])
    turned = slots.of(rows[::-1]).load(1)
    assert torch.equal(turned, outputs(size).flip(0))
    others = [row for row in range(8) if row not in rows]
    if others:
        assert slots.of(others).load(1).isnan().all()
    assert slots.of(list(range(8))).load(0).isnan().all()


@pytest.mark.parametrize("rows", [[2, 3, 4], [6, 0, 3]])
def test_what_is_written_to_targets_and_to_loaded_slots_is_in_place_once_committed(
    rows: list[int],
) -> None:
    slots = arena()
    batch = slots.of(rows)
    first = batch.target(0, outputs(3))
    batch.load(1).copy_(outputs(3, start=100.0))
    # Later than the next access, as a pass over what waits writes.
    first.copy_(outputs(3))
    batch.commit([0, 1])
    for slot in (0, 1):
        assert torch.equal(slots.of(rows).load(slot), outputs(3, start=100.0 * slot))


def test_samples_that_lie_together_are_read_and_written_where_they_are() -> None:
    slots = arena()
    batch = slots.of([2, 3])
    target = batch.target(0, outputs(2))
    assert target.data_ptr() == batch.load(0).data_ptr()
    assert slots.of([2, 4]).load(0).data_ptr() != target.data_ptr()


def test_an_output_of_another_shape_or_dtype_is_refused_by_slot() -> None:
    batch = arena().of([0, 5])
    with pytest.raises(ValueError, match="slot 1"):
        batch.store(1, torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="float64"):
        batch.target(0, outputs(2).double())


def test_a_plan_without_slots_takes_no_memory() -> None:
    assert RequestSlots(0, 8, SHAPE, torch.float32, torch.device("cpu")).nbytes == 0
    assert arena().nbytes >= 2 * 8 * 6 * 4
