"""Slots as torch tensors over the arena."""

from __future__ import annotations

import gc

import pytest
import torch

from l2c_rt._C import GraphLoop
from l2c_rt.memory.arena import SlotMemory

CPU = torch.device("cpu")
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_slots_are_separate_contiguous_tensors_of_the_asked_kind(dtype: torch.dtype) -> None:
    memory = SlotMemory(5, (2, 3, 7), dtype, CPU)
    for index, slot in enumerate(memory.slots):
        assert slot.shape == (2, 3, 7)
        assert slot.dtype == dtype
        assert slot.device == CPU
        assert slot.is_contiguous()
        assert slot.data_ptr() % 256 == 0
        slot.fill_(index)
    for index, slot in enumerate(memory.slots):
        assert (slot == index).all()
        assert torch.equal(memory.all_slots[index], slot)
    assert memory.all_slots.shape == (5, 2, 3, 7)
    assert memory.nbytes >= 5 * 42 * dtype.itemsize


@pytest.mark.parametrize("dtype", DTYPES)
def test_poison_is_nan(dtype: torch.dtype) -> None:
    memory = SlotMemory(2, (9,), dtype, CPU)
    memory.poison()
    assert memory.all_slots.isnan().all()


def test_sleep_keeps_addresses_and_gives_memory_back() -> None:
    memory = SlotMemory(3, (1 << 18,), torch.float32, CPU)
    addresses = [slot.data_ptr() for slot in memory.slots]
    memory.poison()
    assert (memory.awake, memory.nbytes, memory.allocations) == (True, 3 << 20, 1)
    memory.sleep()
    assert (memory.awake, memory.nbytes, memory.allocations) == (False, 0, 1)
    assert not memory.all_slots.any()
    memory.wake()
    assert (memory.awake, memory.nbytes, memory.allocations) == (True, 3 << 20, 2)
    assert [slot.data_ptr() for slot in memory.slots] == addresses
    memory.slots[1].copy_(torch.ones(1 << 18))
    assert memory.all_slots.sum() == 1 << 18


def test_a_slot_outlives_its_memory_object() -> None:
    memory = SlotMemory(2, (1 << 16,), torch.float32, CPU)
    slot = memory.slots[1]
    del memory
    gc.collect()
    slot.fill_(2)
    assert slot.sum() == 2 << 16


def test_slots_take_no_further_memory_in_use() -> None:
    memory = SlotMemory(2, (4, 4), torch.float32, CPU)
    arena = memory.arena
    assert arena.live_views == 3
    for _ in range(100):
        memory.slots[0].copy_(torch.ones(4, 4))
    assert (arena.allocations, arena.live_views) == (1, 3)
    del memory
    assert arena.live_views == 0


@pytest.mark.parametrize(
    ("num_slots", "shape", "dtype", "device", "says"),
    [
        (2, (4,), torch.int32, CPU, "torch.int32, wanted one of float16, bfloat16"),
        (2, (4,), torch.float32, torch.device("meta"), "device meta, wanted cpu or cuda"),
        (0, (4,), torch.float32, CPU, "num_slots is 0"),
        (2, (4, 0), torch.float32, CPU, "slot_bytes is 0"),
    ],
)
def test_bad_slots_are_value_errors(
    num_slots: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        SlotMemory(num_slots, shape, dtype, device)


@pytest.fixture
def gpu() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_slots_hold_what_is_written(gpu: torch.device, dtype: torch.dtype) -> None:
    memory = SlotMemory(3, (2, 1000), dtype, gpu)
    memory.poison()
    assert memory.all_slots.isnan().all()
    for index, slot in enumerate(memory.slots):
        assert slot.device == gpu
        slot.copy_(torch.full_like(slot, index))
    for index in range(3):
        assert (memory.all_slots[index] == index).all()


@pytest.mark.gpu
def test_gpu_memory_is_free_while_asleep(gpu: torch.device) -> None:
    memory = SlotMemory(4, (1 << 28,), torch.float32, gpu)
    addresses = [slot.data_ptr() for slot in memory.slots]
    awake = torch.cuda.mem_get_info(gpu)[0]
    memory.sleep()
    assert torch.cuda.mem_get_info(gpu)[0] - awake >= 4 << 30
    memory.wake()
    assert [slot.data_ptr() for slot in memory.slots] == addresses
    memory.slots[3].fill_(5)
    assert memory.slots[3][-1].item() == 5


@pytest.mark.gpu
def test_a_captured_graph_is_valid_after_sleep_and_is_refused_during_it(gpu: torch.device) -> None:
    memory = SlotMemory(2, (1024,), torch.float32, gpu)
    source = torch.arange(1024.0, device=gpu)
    result = torch.empty(1024, device=gpu)
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(gpu)
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        memory.slots[1].copy_(source)
        torch.mul(memory.slots[1], 2, out=result)
    loop = GraphLoop(gpu.index, [graph.raw_cuda_graph_exec()] * 3, [memory.arena])
    memory.sleep()
    with pytest.raises(RuntimeError, match="sleeps"):
        loop.launch(stream.cuda_stream)
    memory.wake()
    memory.poison()
    source += 1
    torch.cuda.synchronize(gpu)
    loop.launch(stream.cuda_stream)
    stream.synchronize()
    assert torch.equal(result, 2 * source)


@pytest.mark.gpu
def test_gpu_slots_outlive_their_memory_object(gpu: torch.device) -> None:
    slot = SlotMemory(2, (1 << 20,), torch.float32, gpu).slots[1]
    gc.collect()
    slot.fill_(2)
    assert slot.sum().item() == 2 << 20


@pytest.mark.gpu
def test_too_much_gpu_memory_is_a_memory_error_and_leaves_nothing(gpu: torch.device) -> None:
    free, total = torch.cuda.mem_get_info(gpu)
    with pytest.raises(MemoryError, match="empty_cache"):
        SlotMemory(2, (total // 4,), torch.float32, gpu)
    assert torch.cuda.mem_get_info(gpu)[0] >= free - (64 << 20)
