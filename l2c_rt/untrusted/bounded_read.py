"""Reading untrusted files: sizes checked before a byte is read, failing only by ValueError."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn


def read_bounded(path: str | Path, most_bytes: int, kind: str) -> bytes:
    """The bytes of a file, or ValueError where it is empty or larger than a `kind` file can be."""
    with open(path, "rb") as file:
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


def parse_json(text: bytes) -> Any:
    """The value of a UTF-8 JSON text without NaN or Infinity; ValueError for anything else."""
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON holds {name}, wanted finite numbers")
