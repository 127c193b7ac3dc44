"""Weight files on disk, described before they are read: safetensors, and torch.save's zip.

Untrusted: nothing in a file is executed, every claimed size is checked against the file before
memory is taken for it, and a damaged file raises ValueError.  This is stricter than
torch.load(weights_only=True), which believes the sizes that a file claims.
"""

from __future__ import annotations

import math
import mmap
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2c_rt.untrusted.torch_pickle import MAX_PICKLE_BYTES, PickleReader, StoredTensor

DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
}
LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True, slots=True)
class Weights:
    """What a file holds; `read` gives one tensor as a float32 copy."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    header: Mapping[str, str]


def open_weights(path: Path) -> Weights:
    """Describe a .safetensors, .pt or .pth file of weights.

    Raises ValueError naming the file where it is damaged or holds anything but weights.
    """
    readers = {".safetensors": _safetensors, ".pt": _torch_zip, ".pth": _torch_zip}
    if path.suffix not in readers:
        raise ValueError(f"{path}: a weight file ends in one of {', '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        # safe_open checks that the tensors lie within the file and cover it.
        file: Any = safe_open(path, framework="pt")
        parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        shapes = {key: tuple(part.get_shape()) for key, part in parts.items()}
        kinds = {key: part.get_dtype() for key, part in parts.items()}
    except SafetensorError as error:
        raise ValueError(f"damaged safetensors file: {error}") from None
    odd = [f"{key} ({kind})" for key, kind in kinds.items() if kind not in _SAFE_KINDS]
    if odd:
        raise ValueError(f"tensors that are not {', '.join(_SAFE_KINDS)}: {first(odd)}")
    return Weights(shapes, lambda key: _float32(file.get_tensor(key)), file.metadata() or {})


_SAFE_KINDS = ("F32", "F16", "BF16", "F64")


def _torch_zip(path: Path) -> Weights:
    archive = _Archive(path)
    tensors = _weights_of(archive.pickle())
    claimed = sum(math.prod(t.shape) * DTYPES[t.storage.kind].itemsize for t in tensors.values())
    # Tensors may share a storage, so that each fits the file and their sum does not.
    if claimed > archive.size:
        raise ValueError(f"the tensors claim {claimed} bytes, but the file has {archive.size}")
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    return Weights(shapes, lambda key: _float32(archive.tensor(tensors[key], key)), {})


def _weights_of(saved: Any) -> dict[str, StoredTensor]:
    if isinstance(saved, dict) and isinstance(saved.get("ema"), dict):
        saved = saved["ema"]
    if not isinstance(saved, dict):
        raise ValueError(f"the file holds a {type(saved).__name__}, wanted a dict of weights")
    odd = [str(k) for k, v in saved.items() if not (type(k) is str and type(v) is StoredTensor)]
    if odd:
        raise ValueError(
            f"entries that are no tensors: {first(odd)}; wanted a state dict, or one under 'ema'"
        )
    kinds = [f"{k} ({v.storage.kind})" for k, v in saved.items() if v.storage.kind not in DTYPES]
    if kinds:
        raise ValueError(f"tensors that are not {', '.join(DTYPES)}: {first(kinds)}")
    return saved


class _Archive:
    """The records of a torch.save file, mapped: only what is used is read and checked."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self.size = path.stat().st_size
            if self.size < LOCAL_HEADER_BYTES:
                raise ValueError(f"{self.size} bytes are too few for a file of torch.save")
            # A private mapping, since torch.frombuffer warns about read-only ones.
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            try:
                self._records = {e.filename: e for e in zipfile.ZipFile(file).infolist()}
            # zipfile lets many exceptions out of a damaged directory.
            except Exception as error:
                raise ValueError(f"not torch.save's zip, or a truncated one: {error}") from None
        self._verified: set[str] = set()
        self._check_records()

    def _check_records(self) -> None:
        for name, entry in self._records.items():
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise ValueError(f"the record {name!r:.80} is compressed, as torch never saves")
        if sum(entry.file_size for entry in self._records.values()) > self.size:
            raise ValueError("its records overlap, as torch never saves them")

    def pickle(self) -> Any:
        names = [name for name in self._records if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError(f"{len(names)} records data.pkl, wanted one; torch.save wrote no such")
        self._folder = names[0].removesuffix("data.pkl")
        order = self._folder + "byteorder"
        if order in self._records and bytes(self.content(order)[:8]) != b"little":
            raise ValueError("the file is not little-endian; save it again on such a machine")
        if self._records[names[0]].file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"its data.pkl has more than {MAX_PICKLE_BYTES} bytes")
        return PickleReader(bytes(self.content(names[0]))).read()

    def content(self, name: str) -> memoryview:
        entry = self._records.get(name)
        if entry is None:
            raise ValueError(f"the record {name!r:.80} is missing")
        at = entry.header_offset
        local = self._bytes[at : at + LOCAL_HEADER_BYTES]
        if len(local) < LOCAL_HEADER_BYTES or local[:4] != b"PK\x03\x04":
            raise ValueError(f"the record {name!r:.80} is said to be at byte {at}, but is not")
        # The local name and extra field may be longer than the directory's.
        at += LOCAL_HEADER_BYTES + int.from_bytes(local[26:28], "little")
        at += int.from_bytes(local[28:30], "little")
        view = memoryview(self._bytes)[at : at + entry.file_size]
        # Once each: many tensors may lie in one record.
        if name not in self._verified and (
            len(view) != entry.file_size or zlib.crc32(view) != entry.CRC
        ):
            raise ValueError(f"the record {name!r:.80} is truncated or damaged")
        self._verified.add(name)
        return view

    def tensor(self, stored: StoredTensor, key: str) -> Tensor:
        storage, size = stored.storage, math.prod(stored.shape)
        dtype = DTYPES[storage.kind]
        content = self.content(f"{self._folder}data/{storage.record}")
        if len(content) != storage.numel * dtype.itemsize or stored.offset + size > storage.numel:
            raise ValueError(
                f"{key} takes elements {stored.offset}..{stored.offset + size} of {storage.numel}, "
                f"but the file holds {len(content)} bytes of them"
            )
        if not _is_contiguous(stored):
            raise ValueError(f"{key} is a strided view; save contiguous weights")
        if not size:
            return torch.empty(stored.shape, dtype=dtype)
        at = stored.offset * dtype.itemsize
        flat = torch.frombuffer(content, dtype=dtype, count=size, offset=at)
        return flat.reshape(stored.shape)


def _is_contiguous(stored: StoredTensor) -> bool:
    expected = 1
    for size, stride in zip(reversed(stored.shape), reversed(stored.stride), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return len(stored.shape) == len(stored.stride)


def _float32(tensor: Tensor) -> Tensor:
    # A copy: the file is mapped, and may change or shrink after it was loaded.
    return tensor.to(torch.float32, copy=True)


def first(names: list[str], most: int = 3) -> str:
    """The first few of many names, for an error message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:80] for name in names[:most]) + more
