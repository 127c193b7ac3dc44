"""Buffers of a call's arguments: what is copied when, and which call is like which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from l2c_rt.backends.graphs.static_inputs import Arguments, StaticInputs

CPU = torch.device("cpu")


def inputs_of(*args: Any, changing: tuple[int, ...] = ()) -> tuple[StaticInputs, Arguments]:
    arguments = Arguments.of(args, {})
    return StaticInputs(arguments.without_tensors(), CPU, changing), arguments


def test_a_tensor_is_copied_only_where_it_is_another_or_was_written_to() -> None:
    x = torch.ones(3)
    inputs, arguments = inputs_of(x)
    inputs.load(arguments)
    inputs.load(arguments)
    assert inputs.copies == 1
    x.add_(1)
    inputs.load(arguments)
    assert inputs.copies == 2
    inputs.load(Arguments.of((torch.zeros(3),), {}))
    assert inputs.copies == 3
    assert torch.equal(inputs.buffer(0), torch.zeros(3))


def test_latents_and_tensors_without_a_count_of_writes_are_copied_always() -> None:
    with torch.inference_mode():
        uncounted = torch.ones(2)
    inputs, arguments = inputs_of(torch.ones(3), uncounted, changing=(0,))
    for _ in range(3):
        inputs.load(arguments)
    assert inputs.copies == 6


def test_buffers_lie_in_memory_as_a_copy_would() -> None:
    channels_last = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    expanded = torch.randn(1, 3).expand(5, 3)
    inputs, arguments = inputs_of(channels_last, {"mask": expanded, "scale": 0.5})
    inputs.load(arguments)
    (x, options), _ = inputs.call()
    assert x.stride() == channels_last.stride()
    assert torch.equal(x, channels_last)
    assert torch.equal(options["mask"], expanded)
    assert options["scale"] == 0.5
    assert inputs.nbytes == (96 + 15) * 4


def test_a_tensor_on_the_host_gets_a_buffer_on_the_device() -> None:
    arguments = Arguments.of((torch.ones(3),), {})
    inputs = StaticInputs(arguments.without_tensors(), torch.device("meta"), ())
    inputs.load(arguments)
    assert inputs.from_host
    assert inputs.buffer(0).device.type == "meta"


def test_writes_of_the_forward_to_its_arguments_show() -> None:
    inputs, arguments = inputs_of(torch.ones(3), torch.ones(3))
    inputs.load(arguments)
    (_, second), _ = inputs.call()
    assert inputs.written() == []
    second.add_(1)
    assert inputs.written() == [1]


@pytest.mark.parametrize(
    ("other", "text"),
    [((torch.ones(3), 0.5), ""),
     ((torch.ones(4), 0.5), "[3] float32 on cpu became [4] float32 on cpu"),
     ((torch.ones(3).double(), 0.5), "[3] float32 on cpu became [3] float64 on cpu"),
     ((torch.ones(3), 0.7), "0.5 became 0.7"),
     ((torch.ones(3), 1), "0.5 became 1"),
     ((torch.ones(3), None), "0.5 became None"),
     ((torch.ones(3), 0.5, 1), "other arguments are given")],
)  # fmt: skip
def test_another_shape_dtype_or_value_is_another_graph(other: tuple[Any, ...], text: str) -> None:
    known = Arguments.of((torch.ones(3), 0.5), {}).without_tensors()
    assert known.difference(Arguments.of(other, {})) == text


def test_an_object_whose_contents_nobody_can_follow_is_named() -> None:
    @dataclass
    class KeyValueCache:
        length: int

    assert Arguments.of((torch.ones(3), [1, "a", None, torch.float16]), {}).opaque() == ""
    assert Arguments.of((), {"cache": KeyValueCache(3)}).opaque() == "KeyValueCache"
