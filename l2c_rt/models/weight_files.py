"""Weight files on disk, described before they are read: safetensors, and torch.save's zip.

Untrusted: nothing in a file is executed, every claimed size is checked against the file before
memory is taken for it, and a damaged file raises ValueError.  This is stricter than
torch.load(weights_only=True), which believes the sizes that a file claims.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from l2c_rt.untrusted.bounded_read import naming, require_regular
from l2c_rt.untrusted.torch_pickle import PickleReader, StoredTensor
from l2c_rt.untrusted.torch_zip import TorchArchive

DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
}
SAFETENSORS_DTYPES = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True, slots=True)
class Weights:
    """What a file holds; `read` gives one tensor as a float32 copy."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    header: Mapping[str, str]


@contextmanager
def open_weights(path: Path) -> Iterator[Weights]:
    """Describe a .safetensors, .pt or .pth file of weights; its tensors can be read while open.

    Raises ValueError naming the file where it is damaged or holds anything but weights; any
    ValueError of the caller inside is made to name it too.
    """
    suffixes = (".safetensors", ".pt", ".pth")
    if path.suffix not in suffixes:
        raise ValueError(f"{path}: a weight file ends in one of {', '.join(suffixes)}")
    require_regular(path)
    with naming(path):
        if path.suffix == ".safetensors":
            yield _safetensors(path)
        else:
            with path.open("rb") as file:
                yield _torch_zip(file)


def _safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        # safe_open checks that the tensors lie within the file and cover it.
        file: Any = safe_open(path, framework="pt")
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
        kinds = {key: part.get_dtype() for key, part in slices.items()}
    except SafetensorError as error:
        raise ValueError(f"damaged safetensors file: {error}") from None
    odd = [f"{key} ({kind})" for key, kind in kinds.items() if kind not in SAFETENSORS_DTYPES]
    if odd:
        raise ValueError(f"tensors that are not {', '.join(SAFETENSORS_DTYPES)}: {first(odd)}")

    def read(key: str) -> Tensor:
        # A copy: the file is mapped, and may change or shrink after it was loaded.
        tensor: Tensor = file.get_tensor(key).to(torch.float32, copy=True)
        return tensor

    return Weights(shapes, read, file.metadata() or {})


def _torch_zip(file: BinaryIO) -> Weights:
    # Read tensor by tensor and not mapped, since a mapped file that shrinks ends the process.
    size = os.fstat(file.fileno()).st_size
    archive = TorchArchive(file, size)
    if archive.byte_order != "<":
        raise ValueError("the file is not little-endian; save it again on such a machine")
    tensors = _weights_of(PickleReader(archive.read("data.pkl")).read())
    claimed = sum(math.prod(t.shape) * DTYPES[t.storage.kind].itemsize for t in tensors.values())
    # Tensors may share a storage, so that each fits the file and their sum does not.
    if claimed > size:
        raise ValueError(f"the tensors claim {claimed} bytes, but the file has {size}")
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    return Weights(shapes, lambda key: _tensor(archive, tensors[key], key), {})


def _tensor(archive: TorchArchive, stored: StoredTensor, key: str) -> Tensor:
    if not _is_contiguous(stored):
        raise ValueError(f"{key} is a strided view; save contiguous weights")
    dtype = DTYPES[stored.storage.kind]
    with naming(key):
        content = archive.elements(stored, dtype.itemsize)
    if not content:
        return torch.empty(stored.shape)
    # A bytearray, since torch warns of bytes that it must not write.
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(stored.shape).float()


def _weights_of(saved: Any) -> dict[str, StoredTensor]:
    if isinstance(saved, dict) and isinstance(saved.get("ema"), dict):
        saved = saved["ema"]
    if not isinstance(saved, dict):
        raise ValueError(f"the file holds a {type(saved).__name__}, wanted a dict of weights")
    odd = [str(k) for k, v in saved.items() if not (type(k) is str and type(v) is StoredTensor)]
    if odd:
        raise ValueError(
            f"entries that are not tensors: {first(odd)}; wanted a state dict, or one under 'ema'"
        )
    kinds = [f"{k} ({v.storage.kind})" for k, v in saved.items() if v.storage.kind not in DTYPES]
    if kinds:
        raise ValueError(f"tensors that are not {', '.join(DTYPES)}: {first(kinds)}")
    return saved


def _is_contiguous(stored: StoredTensor) -> bool:
    expected = 1
    for size, stride in zip(reversed(stored.shape), reversed(stored.stride), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return len(stored.shape) == len(stored.stride)


def first(names: list[str], most: int = 3) -> str:
    """The first few of many names, for an error message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:80] for name in names[:most]) + more
