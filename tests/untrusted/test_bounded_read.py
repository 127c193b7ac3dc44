"""Reading of untrusted files: what is refused before it is read, and that errors name the file."""

from __future__ import annotations

import os

import pytest

from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded


def test_a_file_within_the_bound_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bounded(tmp_path / "file", 5, "test") == b"12345"
    with pytest.raises(ValueError, match=r"5 bytes, wanted 1\.\.4 for a test file; this is"):
        read_bounded(tmp_path / "file", 4, "test")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="0 bytes.*it is empty"):
        read_bounded(tmp_path / "file", 4, "test")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"1099511627776 bytes, wanted 1\.\.8"):
        read_bounded(tmp_path / "file", 8, "test")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_and_a_folder_are_refused_without_being_opened(tmp_path):
    # Opening a pipe that nobody writes to would wait for ever.
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match="not a regular file"):
            read_bounded(path, 8, "test")


def test_a_file_that_is_missing_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "file", 8, "test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe", "decode"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": NaN}', "holds NaN"),
        (b"[-Infinity]", "holds -Infinity"),
        (b"[" + b"9" * 5_000 + b"]", "digits"),
        (b"{", "property name"),
    ],
)
def test_a_text_that_is_not_json_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_an_error_names_the_file_once():
    with pytest.raises(ValueError, match=r"^a\.json: wrong$"), naming("a.json"), naming("a.json"):
        raise ValueError("wrong")


def test_a_value_too_deep_to_print_is_an_error_of_the_file():
    with pytest.raises(ValueError, match=r"a\.json: nested too deeply"), naming("a.json"):
        raise RecursionError


def test_other_errors_pass():
    with pytest.raises(KeyError), naming("a.json"):
        raise KeyError("x")
