"""The batches of a data set: over and over, and refused where they are of another kind."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from l2c_rt.learning.batches import endless

LABELS = torch.tensor([3, 7, 1])


def latents(seed: int = 0) -> Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_batches_go_round_and_can_be_skipped() -> None:
    data = [(latents(k), LABELS + k) for k in range(3)]
    order = [int(y[0]) - 3 for _, y in itertools.islice(endless(data, True), 7)]
    assert order == [0, 1, 2, 0, 1, 2, 0]
    assert [int(y[0]) - 3 for _, y in itertools.islice(endless(data, True, skip=4), 2)] == [1, 2]


def test_a_model_without_labels_gets_the_latents_alone() -> None:
    for batch in (latents(), (latents(),), (latents(), LABELS)):
        clean, labels = next(endless([batch], False))
        assert torch.equal(clean, latents())
        assert labels is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "gave no batch"),
        ([latents()], "batch of data is ..3, 4, 8, 8.., wanted"),
        ([(latents(), latents())], r"wanted \(latents"),
        ([(latents(), LABELS[:2])], r"wanted \(latents"),
        ([(LABELS, LABELS)], r"wanted \(latents"),
        ([(latents(), None)], "NoneType"),
    ],
)
def test_batches_of_another_kind_are_rejected(data: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(endless(data, True))


def test_a_generator_that_ends_is_rejected_when_it_runs_dry() -> None:
    batches = endless(((latents(k), LABELS) for k in range(2)), True)
    next(batches)
    next(batches)
    with pytest.raises(ValueError, match="not a generator that ends"):
        next(batches)
