"""Labels are those of the call, whatever was tabulated for earlier ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from oracle import Oracle
from three_backends import STEPS, assert_near, every_backend, fresh
from torch import Tensor
from toys import call_inputs, timesteps, toy_dit


def compare_with_oracle(backend: str, labels_at: Callable[[int], Tensor]) -> None:
    """Two runs whose labels at each step are `labels_at(step)`, against the naive forward."""
    fast = fresh(backend, toy_dit(), timesteps=timesteps(STEPS))
    for _ in range(2):
        oracle = Oracle(fast.bound_model.model, fast.schedule.compute)
        for step in range(STEPS):
            x, t, _ = call_inputs(step)
            labels = labels_at(step)
            with torch.no_grad():
                expected = oracle(x, t, labels)
            assert_near([fast(x, t, labels)], [expected])


@every_backend
def test_another_label_tensor_inside_a_run_is_used(backend: str) -> None:
    compare_with_oracle(backend, lambda step: torch.tensor([step // 2, 3]))


@every_backend
def test_a_label_tensor_written_to_inside_a_run_is_read_again(backend: str) -> None:
    labels = torch.tensor([3, 4])
    compare_with_oracle(backend, lambda step: labels.fill_(7) if step == 3 else labels)


@every_backend
def test_a_label_tensor_of_inference_mode_which_counts_no_writes_is_read_at_every_call(
    backend: str,
) -> None:
    with torch.inference_mode():
        labels = torch.tensor([3, 4])
        compare_with_oracle(backend, lambda step: labels.fill_(step))
