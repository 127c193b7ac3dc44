"""A safetensors file read tensor by tensor, never mapped.

The library maps files: one that shrinks while it is mapped ends the process by SIGBUS. Its other
way in needs the whole file in memory. The format is a length, a JSON header and the tensors' bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from l2c_rt.untrusted.bounded_read import parse_json

MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 8
ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4,
              "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor as the header describes it, at bytes `start` to `end` of the file."""

    kind: str
    shape: tuple[int, ...]
    start: int
    end: int


class SafetensorsFile:
    """The entries and the metadata of an open file of `size` bytes; `read` gives one tensor.

    Raises: ValueError where the header is damaged, or the tensors do not cover the file end to end.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(
                f"damaged safetensors file: its header claims {length} of {size} bytes"
            )
        header = parse_json(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("damaged safetensors file: its header is not a JSON object")
        metadata = header.pop("__metadata__", None)
        metadata = {} if metadata is None else metadata
        if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
            raise ValueError("damaged safetensors file: its metadata is not a dict of texts")
        self.metadata: Mapping[str, str] = metadata
        begin = 8 + length
        self.entries = {name: _entry(name, fields, begin) for name, fields in header.items()}
        _check_cover(list(self.entries.values()), begin, size)

    def read(self, entry: Entry) -> bytearray:
        """The bytes of a tensor, little-endian and contiguous."""
        content = bytearray(entry.end - entry.start)
        self._file.seek(entry.start)
        view, done = memoryview(content), 0
        while done < len(content):
            count = self._file.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise ValueError(f"the file ends {len(content) - done} bytes before a tensor does")
            done += count
        return content


def _entry(name: str, fields: Any, begin: int) -> Entry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"damaged safetensors file: {name[:80]!r} is not described")
    kind, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    whole = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    if not whole or not all(type(n) is int and 0 <= n < 1 << 62 for n in (*shape, *offsets)):
        raise ValueError(f"damaged safetensors file: {name[:80]!r} has no shape or offsets")
    if len(shape) > MAX_DIMENSIONS or not isinstance(kind, str) or kind not in ITEM_BYTES:
        raise ValueError(
            f"{name[:80]!r} is {kind!r:.40} with {len(shape)} axes, wanted {MAX_DIMENSIONS} or "
            f"less and one of {', '.join(ITEM_BYTES)}"
        )
    if offsets[1] - offsets[0] != math.prod(shape) * ITEM_BYTES[kind]:
        raise ValueError(
            f"damaged safetensors file: {name[:80]!r} is {kind} {shape}, but has "
            f"{offsets[1] - offsets[0]} bytes"
        )
    return Entry(kind, tuple(shape), begin + offsets[0], begin + offsets[1])


def _check_cover(entries: list[Entry], begin: int, size: int) -> None:
    """Refuse tensors that overlap, leave gaps or end elsewhere than the file."""
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.end)):
        if entry.start != begin:
            raise ValueError(f"damaged safetensors file: no tensor begins at byte {begin}")
        begin = entry.end
    if begin != size:
        raise ValueError(f"damaged safetensors file: tensors end at {begin}, the file at {size}")
