"""Memory on a GPU: given back asleep, not growing, gone with what is dropped."""

from __future__ import annotations

import pytest
import torch
from gpu_runs import drive, fresh, noise

pytestmark = pytest.mark.gpu


def test_asleep_the_memory_is_others_and_awake_the_same_graphs_give_the_same() -> None:
    fast = fresh()
    want = fast.sample(noise(), [1, 2])
    captured = fast.summary().graphs.graphs
    fast.sleep()
    with pytest.raises(RuntimeError, match="asleep"):
        fast.sample(noise(), [1, 2])
    others = torch.full((1 << 28,), float("nan"), device="cuda")
    fast.wake()
    assert torch.equal(fast.sample(noise(), [1, 2]), want)
    assert others.isnan().all()
    assert fast.summary().graphs.graphs == captured


def test_memory_does_not_grow_from_run_to_run() -> None:
    fast = fresh()

    def runs(count: int) -> int:
        for seed in range(count):
            fast.sample(noise(seed), [1, 2])
            drive(fast, seed)
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    before = runs(3)
    assert runs(20) <= before


def test_programs_that_are_dropped_give_their_memory_back() -> None:
    fast = fresh()
    drive(fast)
    torch.cuda.synchronize()
    before = torch.cuda.mem_get_info()[0]
    for batch in range(3, 9):
        drive(fast, batch=batch)
    torch.cuda.empty_cache()
    # Four shapes are kept, the largest of which is a few MiB.
    assert before - torch.cuda.mem_get_info()[0] < 512 << 20
