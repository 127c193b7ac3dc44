"""Views of the arena through DLPack, without torch, so that they also run under the sanitizers."""

from __future__ import annotations

import ctypes
import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2c_rt._C import Arena

FLOATS = {"float16": np.float16, "float32": np.float32, "float64": np.float64}


@settings(deadline=None)
@given(
    st.integers(1, 6),
    st.lists(st.integers(1, 5), max_size=5),
    st.sampled_from(list(FLOATS)),
    st.integers(0, 3000),
)
def test_views_do_not_overlap_and_lie_where_the_layout_says(
    num_slots: int, shape: list[int], dtype: str, spare: int
) -> None:
    itemsize = np.dtype(FLOATS[dtype]).itemsize
    arena = Arena(num_slots, int(np.prod(shape, dtype=int)) * itemsize + spare)
    slots = [np.from_dlpack(arena.view(slot, shape, dtype)) for slot in range(num_slots)]
    together = np.from_dlpack(arena.all_slots(shape, dtype))
    for index, slot in enumerate(slots):
        assert slot.shape == tuple(shape)
        assert slot.dtype == FLOATS[dtype]
        assert slot.flags.c_contiguous
        assert slot.flags.writeable
        assert slot.ctypes.data == arena.base + index * arena.stride_bytes
        slot[...] = index + 1
    assert together.shape == (num_slots, *shape)
    for index, slot in enumerate(slots):
        assert (slot == index + 1).all()
        assert (together[index] == index + 1).all()


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("owner", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


def inside(capsule: object, name: bytes) -> int:
    """The address a capsule of that name carries."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(pointer(capsule, name))


@pytest.mark.parametrize(
    ("dtype", "code", "bits"),
    [("float16", 2, 16), ("bfloat16", 4, 16), ("float32", 2, 32), ("float64", 2, 64)],
)
def test_both_kinds_of_capsule_say_what_the_view_is(dtype: str, code: int, bits: int) -> None:
    arena = Arena(3, 1000)
    view = arena.view(2, [5, 7], dtype)
    old, new = view.__dlpack__(), view.__dlpack__(max_version=(1, 1))
    versioned = Versioned.from_address(inside(new, b"dltensor_versioned"))
    assert (versioned.major, versioned.flags) == (1, 0)
    for tensor in (DLTensor.from_address(inside(old, b"dltensor")), versioned.tensor):
        assert tensor.data == arena.base + 2 * arena.stride_bytes
        assert (tensor.device_type, tensor.device_id) == (1, 0)
        assert (tensor.code, tensor.bits, tensor.lanes) == (code, bits, 1)
        assert tensor.shape[: tensor.ndim] == [5, 7]
        assert tensor.strides[: tensor.ndim] == [7, 1]
        assert tensor.byte_offset == 0


def test_a_consumer_of_the_first_protocol_gets_the_first_capsule() -> None:
    view = Arena(1, 8).view(0, [1], "float64")
    assert inside(view.__dlpack__(max_version=(0, 8)), b"dltensor")
    assert view.__dlpack_device__() == (1, 0)


@pytest.mark.parametrize(
    "request_",
    [
        {"copy": True},
        {"stream": 1},
        {"stream": 0},
        {"dl_device": (2, 0)},
        {"dl_device": (1, 1)},
    ],
)
def test_a_request_that_cannot_be_honoured_is_a_buffer_error(request_: dict[str, object]) -> None:
    arena = Arena(1, 8)
    with pytest.raises(BufferError, match="__dlpack__: "):
        arena.view(0, [1], "float64").__dlpack__(**request_)
    assert arena.live_views == 0


def test_a_request_that_can_be_honoured_is() -> None:
    view = Arena(1, 8).view(0, [1], "float64")
    assert view.__dlpack__(stream=-1, dl_device=(1, 0), copy=False, max_version=(2, 0)) is not None
    assert np.from_dlpack(view, device="cpu", copy=False).shape == (1,)


@pytest.mark.parametrize(
    ("slot", "shape", "dtype", "says"),
    [
        (2, [1], "float32", "slot 2 of 2"),
        (-1, [1], "float32", "slot -1 of 2"),
        (0, [5], "int8", "'int8': wanted float16, bfloat16, float32 or float64"),
        (0, [3, 0], "float32", "dimension of 0"),
        (0, [-4], "float32", "dimension of -4"),
        (0, [6], "float32", "24 bytes, in slots of 20"),
        (0, [2**31, 2**31, 2**31], "float32", "63 bits"),
    ],
)
def test_bad_views_are_value_errors(slot: int, shape: list[int], dtype: str, says: str) -> None:
    arena = Arena(2, 20)
    with pytest.raises(ValueError, match=says):
        arena.view(slot, shape, dtype)


def test_a_slot_can_be_filled_to_its_last_byte() -> None:
    arena = Arena(2, 20)
    np.from_dlpack(arena.view(1, [5], "float32"))[...] = 1
    assert np.from_dlpack(arena.all_slots([5], "float32")).sum() == 5
    with pytest.raises(ValueError, match="24 bytes, in slots of 20"):
        arena.all_slots([6], "float32")


def test_a_view_outlives_its_arena() -> None:
    arena = Arena(2, 1 << 20)
    view = np.from_dlpack(arena.view(1, [1 << 18], "float32"))
    part = view[10:20]
    del arena, view
    gc.collect()
    part[...] = 3
    assert part.sum() == 30


def test_live_views_counts_tensors_until_their_memory_is_free() -> None:
    arena = Arena(2, 64)
    view = arena.view(0, [4], "float32")
    assert arena.live_views == 0
    arrays = [np.from_dlpack(view) for _ in range(3)]
    parts = [array[1:] for array in arrays]
    unused = view.__dlpack__(), view.__dlpack__(max_version=(1, 0))
    assert arena.live_views == 5
    del unused
    assert arena.live_views == 3
    arrays.clear()
    assert arena.live_views == 3
    parts.clear()
    assert arena.live_views == 0
