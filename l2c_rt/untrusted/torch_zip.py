"""The records of a torch.save file: a zip archive whose records are stored, not compressed.

Everything in these files is untrusted: `zipfile` reads them, within bounds that are checked on the
directory before any record is read, and only ValueError leaves here.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from l2c_rt.untrusted.torch_pickle import MAX_PICKLE_BYTES, StoredTensor

# Some 50,000 records; zipfile makes an object of every entry.
MAX_DIRECTORY_BYTES = 4 << 20


class TorchArchive:
    """The records of one archive, by their names below its folder; read and verified on demand.

    `size` is that of `file` in bytes; `byte_order` is "<" or ">", as in numpy.
    Raises: ValueError where it is not a zip, is damaged, or has compressed, doubled or overlapping
    records.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        if file.read(4) != b"PK\x03\x04":
            raise ValueError(
                "not a zip archive; files of torch before 1.6 are not read, and a damaged or "
                "partly downloaded file looks the same: fetch it again, or save it anew"
            )
        reader = _Reader(file)
        with _damage("its directory is damaged, or the file is truncated"):
            self._zip = zipfile.ZipFile(reader)
        reader.most_bytes = None
        entries = self._zip.infolist()
        _check_entries(entries, size)
        names = [entry.filename for entry in entries]
        folders = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(folders) != 1:
            raise ValueError(f"{len(folders)} records data.pkl, wanted one, as torch.save writes")
        self._folder = folders[0]
        self._entries = dict(zip(names, entries, strict=True))
        self._shared: dict[str, bytes] = {}
        if self._entries[f"{self._folder}data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"its data.pkl has more than {MAX_PICKLE_BYTES} bytes")
        order = self.read("byteorder") if f"{self._folder}byteorder" in self._entries else b"little"
        if order not in (b"little", b"big"):
            raise ValueError(f"byte order {order[:8]!r}, wanted little or big")
        self.byte_order = "<" if order == b"little" else ">"

    def read(self, name: str) -> bytes:
        """The content of a record, its checksum verified."""
        entry = self._entries.get(self._folder + name)
        if entry is None:
            raise ValueError(f"zip record {name!r:.80} is missing")
        with _damage(f"zip record {name!r:.80} is damaged or truncated"):
            return self._zip.read(entry)

    def elements(self, tensor: StoredTensor, item_bytes: int) -> bytes:
        """The bytes of a contiguous tensor with elements of `item_bytes` bytes."""
        storage, count = tensor.storage, math.prod(tensor.shape)
        content = self._shared.get(storage.record)
        if content is None:
            content = self.read(f"data/{storage.record}")
        if count != storage.numel:
            # Many small tensors may share a large record: it is read once for all of them.
            self._shared[storage.record] = content
        if len(content) != storage.numel * item_bytes or tensor.offset + count > storage.numel:
            raise ValueError(
                f"storage {storage.record!r:.40} claims {storage.numel} elements, the tensor takes "
                f"{tensor.offset}..{tensor.offset + count}; the file holds {len(content)} bytes"
            )
        return content[tensor.offset * item_bytes : (tensor.offset + count) * item_bytes]


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    for entry in entries:
        stored = entry.compress_type == zipfile.ZIP_STORED
        if not stored or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
            raise ValueError(
                f"zip record {entry.filename!r:.80} is compressed or encrypted; torch saves neither"
            )
    # Records that overlap could make a small file take for ever to read.
    claimed = sum(entry.file_size for entry in entries)
    if claimed > size:
        raise ValueError(f"zip records claim {claimed} of {size} bytes, so they overlap")
    if len({entry.filename for entry in entries}) != len(entries):
        raise ValueError("two zip records have one name")


@contextmanager
def _damage(text: str) -> Iterator[None]:
    try:
        yield
    # zipfile lets many kinds of exceptions out of a damaged archive.
    except Exception as error:
        raise ValueError(f"{text}: {error}") from None


class _Reader:
    """A file for zipfile that refuses any one read of more than `most_bytes`."""

    def __init__(self, file: BinaryIO) -> None:
        self.most_bytes: int | None = MAX_DIRECTORY_BYTES
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if self.most_bytes is not None and size > self.most_bytes:
            raise ValueError(f"the zip directory claims {size} bytes")
        return self._file.read(size)
