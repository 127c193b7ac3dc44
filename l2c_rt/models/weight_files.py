"""Weight files on disk, described before they are read: safetensors, and torch.save's zip.

Untrusted: nothing in a file is executed, every claimed size is checked against the file before
memory is taken for it, and a damaged file raises ValueError.  Tensors are read one by one and not
mapped, since a mapped file that shrinks ends the process.  This is stricter than
torch.load(weights_only=True), which believes the sizes that a file claims, and takes more files:
see `untrusted.weights_pickle`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from l2c_rt.models.state_dicts import find_weights, first
from l2c_rt.untrusted.bounded_read import naming, open_regular
from l2c_rt.untrusted.safetensors_file import Entry, SafetensorsFile
from l2c_rt.untrusted.torch_pickle import StoredTensor
from l2c_rt.untrusted.torch_zip import TorchArchive
from l2c_rt.untrusted.weights_pickle import WEIGHT_SUFFIXES, WeightsReader

STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
}
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
INTEGERS = {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
            "U8": torch.uint8}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Weights:
    """What a file holds; `read` gives one tensor as a float32 copy."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    header: Mapping[str, str]


@contextmanager
def open_weights(path: Path, anchor: str, key: str = "") -> Iterator[Weights]:
    """Describe the weights in a file by the names of the model, of which `anchor` is one.

    Its tensors can be read while it is open.  `key` and errors are as for `find_weights`; any
    ValueError of the caller inside is made to name the file too.
    """
    if path.suffix not in WEIGHT_SUFFIXES:
        raise ValueError(f"{path}: a weight file ends in one of {', '.join(WEIGHT_SUFFIXES)}")
    with naming(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if path.suffix == ".safetensors":
            yield _safetensors(SafetensorsFile(file, size), anchor, key)
        else:
            yield _torch_zip(file, size, anchor, key)


def read_tensors(path: Path, names: tuple[str, ...]) -> list[Tensor]:
    """Tensors of any plain type from a .safetensors file, in their own types.

    Raises: ValueError or OSError naming the file.
    """
    with naming(path), open_regular(path) as stream:
        file = SafetensorsFile(stream, os.fstat(stream.fileno()).st_size)
        if not file.entries.keys() >= {*names}:
            raise ValueError(f"holds {first(sorted(file.entries))}, wanted {' and '.join(names)}")
        entries = [file.entries[name] for name in names]
        known = FLOATS | INTEGERS
        _check_kinds({name: file.entries[name].kind for name in names}, known)
        return [tensor_of(file.read(entry), known[entry.kind], entry.shape) for entry in entries]


def _safetensors(file: SafetensorsFile, anchor: str, key: str) -> Weights:
    found = find_weights(file.entries, Entry, anchor, key)
    _check_kinds({name: entry.kind for name, entry in found.items()}, FLOATS)

    def read(name: str) -> Tensor:
        entry = found[name]
        return tensor_of(file.read(entry), FLOATS[entry.kind], entry.shape).float()

    return Weights({name: entry.shape for name, entry in found.items()}, read, file.metadata)


def _torch_zip(file: BinaryIO, size: int, anchor: str, key: str) -> Weights:
    archive = TorchArchive(file, size)
    if archive.byte_order != "<":
        raise ValueError("the file is not little-endian; save it again on such a machine")
    saved = WeightsReader(archive.read("data.pkl")).read()
    found = find_weights(saved, StoredTensor, anchor, key)
    _check_kinds({name: stored.storage.kind for name, stored in found.items()}, STORAGES)
    claimed = sum(math.prod(t.shape) * STORAGES[t.storage.kind].itemsize for t in found.values())
    # Tensors may share a storage, so that each fits the file and their sum does not.
    if claimed > size:
        raise ValueError(f"the tensors claim {claimed} bytes, but the file has {size}")

    def read(name: str) -> Tensor:
        stored = found[name]
        if not _is_contiguous(stored):
            raise ValueError(f"{name} is a strided view; save contiguous weights")
        dtype = STORAGES[stored.storage.kind]
        with naming(name):
            content = archive.elements(stored, dtype.itemsize)
        # A bytearray, since torch warns of bytes that it must not write.
        return tensor_of(bytearray(content), dtype, stored.shape).float()

    return Weights({name: stored.shape for name, stored in found.items()}, read, {})


def _check_kinds(kinds: Mapping[str, str], known: Mapping[str, torch.dtype]) -> None:
    odd = [f"{name} ({kind})" for name, kind in kinds.items() if kind not in known]
    if odd:
        raise ValueError(f"tensors that are not {', '.join(known)}: {first(odd)}")


def tensor_of(content: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    # On the CPU, whatever torch.set_default_device says.
    with torch.device("cpu"):
        if not content:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(content, dtype=dtype).reshape(shape)


def _is_contiguous(stored: StoredTensor) -> bool:
    expected = 1
    for size, stride in zip(reversed(stored.shape), reversed(stored.stride), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return len(stored.shape) == len(stored.stride)
