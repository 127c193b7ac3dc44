"""Checkpoints as plain values: what stands beside the weights is inert, and nothing is called."""

from __future__ import annotations

import argparse
import enum
import io
import os
import pathlib
import pickle
import subprocess
import time
import tracemalloc
import zipfile
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from l2c_rt.untrusted.torch_pickle import Namespace, StoredTensor
from l2c_rt.untrusted.weights_pickle import Unread, WeightsReader


class Colour(enum.Enum):
    """An enum of the user's."""

    RED = 1


@dataclass
class Config:
    """A class of the user's."""

    width: int
    path: pathlib.PurePosixPath


def read(value: Any) -> Any:
    """What the reader makes of a value that torch.save wrote."""
    content = io.BytesIO()
    torch.save(value, content)
    with zipfile.ZipFile(content) as archive:
        return WeightsReader(archive.read("archive/data.pkl")).read()


@pytest.mark.parametrize(
    "beside",
    [
        pathlib.PurePosixPath("/x"), torch.bfloat16, torch.device("cpu"), torch.Size([1]),
        Colour.RED, Config(3, pathlib.PurePosixPath("y")), {1, 2}, deque([1]), b"bytes",
        defaultdict(list, a=[1]), np.float64(0.5), np.arange(3), slice(1, 2), 1 + 2j, 2**70,
        {(0, 1): "tuple key", 0.5: "float key", None: 1, Colour.RED: 2}, frozenset({3}),
        argparse.Namespace(a=argparse.Namespace(b=Config(1, pathlib.PurePosixPath()))),
        torch.nn.Linear(1, 1), torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0),
        [Config] * 3, print, torch.nn.functional.gelu, range(3), bytearray(3),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_whatever_stands_beside_the_weights_they_are_read(beside: Any) -> None:
    saved = read({"before": beside, "w": torch.ones(2, 3), "after": [beside, {"x": beside}]})
    assert isinstance(saved["w"], StoredTensor)
    assert saved["w"].shape == (2, 3)


def test_parameters_and_tensors_with_attributes_are_tensors() -> None:
    tensor = torch.ones(2)
    tensor.note = "mine"  # type: ignore[attr-defined]
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.note = "mine"  # type: ignore[attr-defined]
    plain = torch.nn.Parameter(torch.ones(4))
    saved = read(OrderedDict(a=tensor, b=parameter, c=plain))
    assert [value.shape for value in saved.values()] == [(2,), (3,), (4,)]


def test_values_that_are_not_read_say_what_they_are() -> None:
    saved = read({"path": pathlib.PurePosixPath("/x"), "model": torch.nn.Linear(1, 1)})
    assert saved["path"] == Unread("pathlib.PurePosixPath")
    assert saved["model"] == Unread("torch.nn.modules.linear.Linear")
    assert isinstance(read(argparse.Namespace(a=1)), Namespace)


class Hostile:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("function", "argument"),
    [(os.system, "touch executed"), (subprocess.call, ["touch", "executed"]),
     (eval, "open('executed', 'w')"), (exec, "open('executed', 'w')"), (getattr, "x"),
     (open, "executed"), (pickle.loads, b""), (__import__, "os")],
)  # fmt: skip
def test_a_name_that_does_harm_is_refused_and_not_called(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, function: Any, argument: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (Hostile(function, argument), {"ema": {}, "args": Hostile(function, argument)}):
        with pytest.raises(ValueError, match="which no weights need.*nothing was executed"):
            read(value)
    assert not (tmp_path / "executed").exists()


def test_a_kilobyte_that_asks_for_gigabytes_takes_none() -> None:
    size = b"\x8a\x05" + (6 << 30).to_bytes(5, "little")
    calls = b"c__builtin__\nbytearray\n" + size + b"\x85R"
    calls += b"ctorch\nempty\n" + size + b"\x85R" + b"cnumpy\nzeros\n" + size + b"\x85R"
    tracemalloc.start()
    start = time.perf_counter()
    value = WeightsReader(b"\x80\x02]" + b"(" + calls * 20 + b"e.").read()
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert time.perf_counter() - start < 1
    assert {item.name for item in value} == {
        "__builtin__.bytearray", "torch.empty", "numpy.zeros"
    }  # fmt: skip
