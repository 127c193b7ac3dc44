"""The zip reader: a torch.save archive within its bounds, and every damage a ValueError."""

from __future__ import annotations

import copy
import io
import os
import zipfile

import numpy as np
import pytest
from router_files import archive, drawn_logits, uvit_pickle

from l2c_rt.untrusted import torch_zip
from l2c_rt.untrusted.torch_pickle import Storage, StoredTensor
from l2c_rt.untrusted.torch_zip import TorchArchive

LOGITS = drawn_logits()
PICKLE = uvit_pickle(LOGITS)
GOOD = archive(PICKLE, LOGITS)


def opened(content: bytes) -> TorchArchive:
    return TorchArchive(io.BytesIO(content), len(content))


def zipped(records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as file:
        for name, record in records.items():
            file.writestr(name, record)
    return content.getvalue()


def directory_changed(at: int, value: int, size: int = 4) -> bytes:
    """The archive with a field of its last directory entry, router/version, overwritten."""
    content = bytearray(GOOD)
    entry = content.rfind(b"PK\x01\x02")
    content[entry + at : entry + at + size] = value.to_bytes(size, "little")
    return bytes(content)


def doubled_entries(times: int, rename: bool) -> bytes:
    """One record of a MiB, and `times` directory entries more that point to it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("r/data.pkl", bytes(1 << 20))
        file.filelist += [copy.copy(file.filelist[0]) for _ in range(times)]
        for k, entry in enumerate(file.filelist):
            entry.filename = f"r{k:04}" if rename else entry.filename
    return content.getvalue()


def row(record: str, start: int, size: int, numel: int) -> StoredTensor:
    return StoredTensor(Storage("FloatStorage", record, numel), start, (size,), (1,))


def test_records_are_read_below_the_folder():
    records = opened(GOOD)
    assert records.read("data.pkl") == PICKLE
    assert records.read("data/3") == LOGITS[3].tobytes()
    with pytest.raises(ValueError, match="record 'data/10' is missing"):
        records.read("data/10")


@pytest.mark.parametrize(("order", "sign"), [("little", "<"), ("big", ">"), (None, "<")])
def test_the_byte_order_is_little_unless_the_file_says_big(order, sign):
    said = {} if order is None else {"r/byteorder": order.encode()}
    assert opened(zipped({"r/data.pkl": b"N.", **said})).byte_order == sign
    with pytest.raises(ValueError, match="byte order b'middle', wanted little or big"):
        opened(zipped({"r/data.pkl": b"N.", "r/byteorder": b"middle"}))


def test_a_tensor_is_its_slice_of_a_record():
    records = opened(GOOD)
    assert records.elements(row("2", 0, 8, 8), 4) == LOGITS[2].tobytes()
    assert records.elements(row("2", 3, 2, 8), 4) == LOGITS[2, 3:5].tobytes()
    assert records.elements(row("2", 8, 0, 8), 4) == b""


@pytest.mark.parametrize("tensor", [row("2", 0, 9, 9), row("2", 1, 8, 8), row("2", 0, 4, 4)])
def test_a_tensor_that_its_record_does_not_hold_is_refused(tensor):
    with pytest.raises(ValueError, match="storage '2' claims .* the file holds 32 bytes"):
        opened(GOOD).elements(tensor, 4)


def test_tensors_that_share_records_by_turns_read_each_once(monkeypatch):
    records, reads = opened(GOOD), []
    read = TorchArchive.read
    monkeypatch.setattr(TorchArchive, "read", lambda *args: reads.append(args) or read(*args))
    for k in range(100):
        records.elements(row(str(k % 2), k % 8, 1, 8), 4)
    assert len(reads) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a zip archive"),
        (b"hello", "not a zip archive"),
        (GOOD[10:], "not a zip archive"),
        (GOOD[: len(GOOD) // 2], "truncated"),
        (GOOD[:-1], "truncated"),
        (zipped({"r/data.pkl": bytes(100)}, zipfile.ZIP_DEFLATED), "compressed or encrypted"),
        (directory_changed(8, 1, 2), "'router/version' is compressed or encrypted"),
        (directory_changed(20, 1_000), "'router/version' is compressed or encrypted"),
        (
            directory_changed(20, 10_000 << 32 | 10_000, 8),
            r"claim \d+ of \d+ bytes",
        ),
        (doubled_entries(200, rename=True), "so they overlap"),
        (zipped({"r/data.pkl": b"", "s/data.pkl": b""}), "2 records data.pkl, wanted one"),
        (zipped({"r/data": b""}), "0 records data.pkl, wanted one"),
        (zipped({"r/data.pkl": bytes((4 << 20) + 1)}), "more than 4194304 bytes"),
    ],
    ids=range(13),
)
def test_a_damaged_archive_is_refused_before_a_record_is_read(content, message):
    with pytest.raises(ValueError, match=message):
        opened(content)


def test_a_doubled_name_is_refused():
    content = GOOD.replace(b"router/data/1", b"router/data/0")
    with pytest.raises(ValueError, match="two zip records have one name"):
        opened(content)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (LOGITS[3].tobytes(), LOGITS[4].tobytes()),
        (b"PK\x03\x04", b"PK\x03\x05"),
        (b"router/data/3", b"router/data/X"),
    ],
    ids=["content", "magic number", "local name"],
)
def test_a_damaged_record_is_refused_when_it_is_read(old, new):
    at = GOOD.rindex(old, 0, GOOD.index(LOGITS[3].tobytes()) + 32)
    records = opened(GOOD[:at] + new + GOOD[at + len(new) :])
    with pytest.raises(ValueError, match="record 'data/3' is damaged or truncated"):
        records.read("data/3")
    assert records.read("data/5") == LOGITS[5].tobytes()


def test_a_large_directory_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(torch_zip, "MAX_DIRECTORY_BYTES", 500)
    with pytest.raises(ValueError, match=r"the zip directory claims \d\d\d bytes"):
        opened(GOOD)


def test_a_record_may_be_larger_than_a_directory(monkeypatch):
    large = np.zeros((1, 1 << 18), np.float32)
    content = archive(uvit_pickle(large), large)
    monkeypatch.setattr(torch_zip, "MAX_DIRECTORY_BYTES", 1_000)
    assert opened(content).read("data/0") == large.tobytes()


def test_a_file_that_shrinks_after_it_was_opened_is_damaged(tmp_path):
    large = np.zeros((1, 1 << 18), np.float32)
    path = tmp_path / "router.pt"
    path.write_bytes(archive(uvit_pickle(large), large))
    with path.open("rb") as file:
        records = TorchArchive(file, path.stat().st_size)
        os.truncate(path, 1 << 19)
        with pytest.raises(ValueError, match="'data/0' is damaged or truncated"):
            records.read("data/0")
