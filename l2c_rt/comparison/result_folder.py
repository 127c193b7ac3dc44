"""A comparison on disk: its configuration, and a file for each method, share and seed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from l2c_rt.untrusted.atomic_write import write_whole
from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded

MAX_FILE_BYTES = 64 << 20
CONFIGURATION = "configuration.json"

T = TypeVar("T")


class ResultFolder:
    """Results that an interrupted comparison has left are taken up; None keeps nothing on disk.

    Raises ValueError where the folder is that of another comparison.
    """

    def __init__(self, path: str | PathLike[str] | None, configuration: Mapping[str, Any]) -> None:
        text = json.dumps(configuration, indent=1, sort_keys=True, allow_nan=False) + "\n"
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        self._path.mkdir(parents=True, exist_ok=True)
        file = self._path / CONFIGURATION
        if file.exists():
            _check_same(file, parse_json(text.encode()))
        else:
            if any(self._path.iterdir()):
                raise ValueError(f"{self._path}: not empty, and not the folder of a comparison")
            write_whole(file, text)

    def get(
        self, name: str, read: Callable[[Any], T], make: Callable[[], T], plain: Callable[[T], Any]
    ) -> T:
        """The value of that name: read where it is there, else made and written, whole."""
        if self._path is None:
            return make()
        file = self._path / f"{_file_name(name)}.json"
        if file.exists():
            with naming(file):
                return read(self._content(file))
        value = make()
        fields = {"digest": self.digest, "name": name, "value": plain(value)}
        write_whole(file, json.dumps(fields, allow_nan=False) + "\n")
        return value

    def has(self, name: str) -> bool:
        """Whether a value of that name is on disk."""
        return self._path is not None and (self._path / f"{_file_name(name)}.json").exists()

    def _content(self, file: Path) -> Any:
        content = parse_json(read_bounded(file, MAX_FILE_BYTES, "result"))
        if not isinstance(content, dict) or content.keys() != {"digest", "name", "value"}:
            raise ValueError("this is not a result of a comparison; delete it")
        if content["digest"] != self.digest:
            raise ValueError("a result of a comparison with another configuration; delete it")
        return content["value"]


def _check_same(file: Path, configuration: Mapping[str, Any]) -> None:
    with naming(file):
        there = parse_json(read_bounded(file, MAX_FILE_BYTES, "configuration"))
        if there == configuration:
            return
        there = there if isinstance(there, dict) else {}
        differing = [k for k in configuration if there.get(k) != configuration[k]]
        raise ValueError(
            f"the comparison in this folder has another {', '.join(differing) or 'format'}; give "
            "another folder, or the same arguments to go on"
        )


def _file_name(name: str) -> str:
    """A name that every file system takes, and no two results share."""
    plain = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:60]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
