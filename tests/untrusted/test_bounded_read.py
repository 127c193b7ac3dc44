"""Reading of untrusted files: what is refused before it is read, and that errors name the file."""

from __future__ import annotations

import os

import pytest

from l2c_rt.untrusted.bounded_read import naming, open_regular, parse_json, read_bounded


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


def test_an_overflow_is_a_value_error_and_an_os_error_gets_its_name():
    with pytest.raises(ValueError, match=r"^a\.json: too large$"), naming("a.json"):
        raise OverflowError("too large")
    with pytest.raises(OSError, match="broken") as raised, naming("a.json"):
        raise OSError(5, "broken")
    assert raised.value.filename == "a.json"
    with pytest.raises(OSError, match="broken") as raised, naming("a.json"):
        raise OSError(5, "broken", "b.json")
    assert raised.value.filename == "b.json"


def test_a_file_that_changes_while_it_is_open_is_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    with pytest.raises(ValueError, match=r"file: changed while it was read"), open_regular(path):
        path.write_bytes(b"123456")
    with open_regular(path) as file:
        path.with_name("fresh").write_bytes(b"other")
        os.replace(path.with_name("fresh"), path)
        assert file.read() == b"123456"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_that_takes_the_place_of_a_checked_file_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr("l2c_rt.untrusted.bounded_read.require_regular", lambda path: None)
    with pytest.raises(ValueError, match="not a regular file"), open_regular(tmp_path / "pipe"):
        pass
