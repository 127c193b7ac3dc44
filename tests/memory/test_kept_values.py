"""Outputs of several shapes at fixed addresses."""

from __future__ import annotations

import pytest
import torch

from l2c_rt.memory.kept_values import KeptValues, ValueKey

A, B = ValueKey(0, 0), ValueKey(1, 0)


def kept(*values: object) -> KeptValues:
    memory = KeptValues()
    for slot, value in enumerate(values):
        memory.keep(ValueKey(slot, 0), value, len(values), may_change=True)
    return memory


def test_a_value_comes_back_in_its_container_with_the_strides_of_a_clone() -> None:
    turned = torch.randn(2, 3, 4).transpose(1, 2)
    memory = kept(turned, (turned, None, turned[:, :1]), [turned.to(torch.float64)])
    assert torch.equal(memory.get(A), turned)
    assert memory.get(A).stride() == turned.clone().stride()
    whole, nothing, part = memory.get(B)
    assert nothing is None
    assert torch.equal(whole, turned)
    assert torch.equal(part, turned[:, :1])
    assert isinstance(memory.get(ValueKey(2, 0)), list)


def test_values_of_one_size_share_an_arena_and_keep_their_addresses() -> None:
    taken: list[None] = []
    memory = KeptValues(lambda: taken.append(None))
    values = [torch.randn(4, 8) for _ in range(3)]
    for slot, value in enumerate(values):
        memory.keep(ValueKey(slot, 0), value, 3, may_change=True)
    addresses = [memory.get(ValueKey(slot, 0)).data_ptr() for slot in range(3)]
    for slot, value in enumerate(values):
        memory.keep(ValueKey(slot, 0), value + 1, 3, may_change=False)
    assert [memory.get(ValueKey(slot, 0)).data_ptr() for slot in range(3)] == addresses
    assert len(taken) == 1
    assert memory.nbytes >= 3 * 4 * 8 * 4


def test_another_shape_replaces_the_memory_only_where_it_may() -> None:
    memory = kept(torch.ones(1 << 12))
    before = memory.nbytes
    with pytest.raises(ValueError, match=r"\[9\] float32, but earlier in the run \[4096\] float32"):
        memory.keep(A, torch.ones(9), 1, may_change=False)
    memory.keep(A, torch.ones(1 << 13), 1, may_change=True)
    assert memory.nbytes == 2 * before


def test_a_write_to_a_kept_value_is_noticed_when_it_is_read_next() -> None:
    memory = kept(torch.ones(4))
    memory.get(A).add_(1)
    with pytest.raises(ValueError, match="in place"):
        memory.get(A)
    memory.keep(A, torch.zeros(4), 1, may_change=False)
    assert not memory.get(A).any()


def test_sleep_gives_everything_back_and_wake_takes_it_at_the_same_addresses() -> None:
    memory = kept(torch.ones(1 << 12), torch.ones(1 << 13, dtype=torch.float64))
    address, nbytes = memory.get(A).data_ptr(), memory.nbytes
    memory.sleep()
    assert (memory.awake, memory.nbytes) == (False, 0)
    memory.wake()
    assert (memory.awake, memory.nbytes) == (True, nbytes)
    assert memory.get(A).data_ptr() == address
    memory.poison()
    assert memory.get(A).isnan().all()


@pytest.mark.parametrize("value", ["text", {"a": 1}, (torch.ones(1), (torch.ones(1),))])
def test_what_is_not_made_of_tensors_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="wanted a tensor or a tuple of tensors"):
        kept(value)


def test_of_a_part_with_a_base_the_difference_is_kept() -> None:
    memory, x = KeptValues(), torch.randn(2, 3)
    memory.keep(A, (x, None, x + 1), 1, may_change=True, bases=(None, None, x))
    whole, nothing, difference = memory.get(A)
    assert torch.equal(whole, x)
    assert nothing is None
    assert torch.equal(difference, (x + 1) - x)
    with pytest.raises(ValueError, match=r"\[2, 3\] float32, but it continues \[3\] float32"):
        memory.keep(A, (x, None, x), 1, may_change=False, bases=(None, None, x[0]))


def test_as_many_tensors_as_are_expected_are_taken_at_once() -> None:
    taken: list[None] = []
    memory = KeptValues(lambda: taken.append(None))
    for count in (2, 2, 3):
        memory.expect({(6, torch.float32): count})
        for slot in range(count):
            memory.keep(ValueKey(slot, 0), torch.zeros(2, 3), 1, may_change=True)
    # Once for two, nothing for the same two again, and once for three.
    assert len(taken) == 2
    memory.expect({(5, torch.float32): 1})
    assert memory.nbytes == 0
    with pytest.raises(KeyError):
        memory.get(A)
