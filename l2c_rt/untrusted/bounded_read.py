"""Reading untrusted files: sizes checked before a byte is read, failing only by ValueError."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn


@contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading; one that changes meanwhile is an error at the end.

    Raises: ValueError where `path` is a folder, pipe, socket or device, before it is opened, and
    where the file was written to while it was open; OSError as `open`.
    """
    require_regular(path)
    # Not blocking, should a pipe have taken the file's place since the check.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise ValueError(f"{path}: not a regular file")
        yield file
        after = os.fstat(file.fileno())
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise ValueError(f"{path}: changed while it was read; read it again")


def read_bounded(path: str | Path, most_bytes: int, kind: str) -> bytes:
    """The bytes of a `kind` file of at most `most_bytes`.

    Raises: ValueError where it is empty, too large or not a regular file; OSError as `open`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not 0 < size <= most_bytes:
            raise ValueError(
                f"{path}: {size} bytes, wanted 1..{most_bytes} for a {kind} file; "
                + ("it is empty" if not size else "this is something else")
            )
        # One byte more, so that a file that grows meanwhile is seen; never most_bytes, since
        # read(n) allocates n.
        content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"{path}: changed from {size} bytes while it was read; read it again")
    return content


def require_regular(path: str | Path) -> None:
    """ValueError where `path` is a folder, pipe or device; opening a pipe could wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path}: not a regular file")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Put the file's name before the text of any ValueError or OSError that has not got it yet.

    A RecursionError and an OverflowError become ValueErrors too: files can nest values deeper than
    a message can print, and hold numbers larger than a float.
    """
    try:
        yield
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply") from None
    except OverflowError as error:
        raise ValueError(f"{path}: {error}") from None
    except ValueError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: {error}") from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def parse_json(text: bytes) -> Any:
    """The value of a UTF-8 JSON text without NaN or Infinity; ValueError for anything else."""
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON holds {name}, wanted finite numbers")
