"""Our reader of safetensors: what it takes the library takes too, with the same tensors."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from damage import cut, flip, safetensors_header
from safetensors import SafetensorError

from l2c_rt.untrusted.safetensors_file import SafetensorsFile

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.int64),
           "c": np.array(3.0), "d": np.array([[True], [False]])}  # fmt: skip
GOOD = safetensors.numpy.save(TENSORS, {"about": "text"})


def opened(content: bytes) -> SafetensorsFile:
    return SafetensorsFile(io.BytesIO(content), len(content))


def test_it_reads_what_the_library_wrote() -> None:
    file = opened(GOOD)
    assert file.metadata == {"about": "text"}
    kinds = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "BOOL": "?"}
    assert file.entries.keys() == TENSORS.keys()
    for name, entry in file.entries.items():
        values = np.frombuffer(file.read(entry), kinds[entry.kind]).reshape(entry.shape)
        np.testing.assert_array_equal(values, TENSORS[name])


def test_whatever_it_takes_of_2000_damaged_files_the_library_takes_too() -> None:
    draw, taken = np.random.default_rng(0), 0
    for case in range(2000):
        damage = (flip, cut, safetensors_header, safetensors_header)[case % 4]
        content = damage(draw, GOOD)
        try:
            file = opened(content)
        except ValueError:
            continue
        taken += 1
        try:
            theirs = safetensors.numpy.load(content)
        except (SafetensorError, KeyError) as error:
            raise AssertionError(f"case {case}: {error}") from error
        assert theirs.keys() == file.entries.keys()
        for name, entry in file.entries.items():
            assert theirs[name].tobytes() == file.read(entry), case
    assert taken > 100


def header_of(**changes: object) -> bytes:
    """A file of one float32 tensor [2] with these fields of its entry changed."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    text = json.dumps({"a": entry}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header claims 0 of 0 bytes"),
        (GOOD[:7], "of 7 bytes"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "header claims 1152921504606846976 of 10"),
        ((2).to_bytes(8, "little") + b"[]", "not a JSON object"),
        (GOOD + b"x", "tensors end at"),
        (header_of(dtype="F8_E4M3"), "F8_E4M3"),
        (header_of(shape=[1 << 40]), "is F32 .1099511627776., but has 8 bytes"),
        (header_of(shape=[-2]), "no shape or offsets"),
        (header_of(shape=[True, 2]), "no shape or offsets"),
        (header_of(shape=[2] + [1] * 8), "has|9 axes"),
        (header_of(data_offsets=[8, 0]), "but has -8 bytes"),
        (header_of(data_offsets=[4, 12]), "no tensor begins at byte"),
        (header_of(extra=1), "not described"),
    ],
)  # fmt: skip
def test_a_damaged_header_is_refused_by_what_is_wrong(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened(content)


def test_a_file_that_shrinks_under_an_open_reader_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(safetensors.numpy.save({"a": np.ones(1 << 20, np.float32)}))
    with path.open("rb") as stream:
        file = SafetensorsFile(stream, path.stat().st_size)
        path.write_bytes(path.read_bytes()[: 1 << 20])
        with pytest.raises(ValueError, match=r"ends \d+ bytes before a tensor does"):
            file.read(file.entries["a"])
