"""A search that is not done, in a file beside its schedule that a stopped one is taken up from."""

from __future__ import annotations

import io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l2c_rt.searching.candidates import Best
from l2c_rt.searching.columns import Array
from l2c_rt.untrusted.atomic_write import require_writable, write_whole
from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded
from l2c_rt.untrusted.safetensors_file import SafetensorsFile

FORMAT = "l2c_rt.search"
VERSION = "2"
MAX_FILE_BYTES = 1 << 29
Known = tuple[Array, Best, float]
"""The errors, the best candidate, and the seconds that were spent."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`path` is None where nothing is written; `options` are what the search depends on."""

    path: Path | None
    options: str
    fingerprint: str

    @staticmethod
    def of(
        out: str | os.PathLike[str] | None, options: dict[str, Any], fingerprint: str
    ) -> Checkpoint:
        """That of a search written to `out`.  Raises ValueError where it cannot be."""
        path = None if out is None else Path(out)
        if path is not None:
            require_writable(path)
            if path.suffix != ".json":
                raise ValueError(f"{path}: the schedule of a search is saved as .json")
            path = path.with_suffix(".search.safetensors")
        return Checkpoint(path, json.dumps(options), fingerprint)

    def save(self, errors: Array, best: Best, spent: float) -> None:
        """Write what is known, whole or not at all."""
        import safetensors.numpy

        if self.path is None:
            return
        assert best.compute is not None
        state = {"error": best.error, "tried": best.tried, "spent": spent}
        header = {"format": FORMAT, "version": VERSION, "options": self.options,
                  "model": self.fingerprint, "state": json.dumps(state)}  # fmt: skip
        tables = {"errors": errors, "compute": best.compute}
        write_whole(self.path, safetensors.numpy.save(tables, metadata=header))

    def load(self, shape: tuple[int, int, int]) -> Known | None:
        """What is known, if anything.  Raises ValueError where it is of another search.

        Shapes: errors [S, K, A] = shape.
        """
        if self.path is None or not self.path.exists():
            return None
        content = read_bounded(self.path, MAX_FILE_BYTES, "search")
        with naming(self.path):
            file = SafetensorsFile(io.BytesIO(content), len(content))
            self._check(file)
            errors = np.frombuffer(_bytes(file, "errors", "F64", shape), "<f8").reshape(shape)
            table = np.frombuffer(_bytes(file, "compute", "BOOL", shape[:2]), np.uint8)
            if np.isnan(errors).any() or (errors < 0).any() or (table > 1).any():
                raise ValueError("it holds numbers that are none, or negative")
            error, tried, spent = _numbers(parse_json(file.metadata.get("state", "").encode()))
        return errors, Best(table.astype(np.bool_).reshape(shape[:2]), error, tried), spent

    def remove(self) -> None:
        """The search is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _check(self, file: SafetensorsFile) -> None:
        header = file.metadata
        if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
            raise ValueError(f"format {header.get('format')!r:.40}, wanted {FORMAT} {VERSION}")
        if (header.get("options"), header.get("model")) != (self.options, self.fingerprint):
            raise ValueError(
                f"the search was begun with {header.get('options')!r:.200}, perhaps on another "
                f"model, now it is {self.options}; use the same, or resume=False to begin anew"
            )


def _bytes(file: SafetensorsFile, name: str, kind: str, shape: tuple[int, ...]) -> bytes:
    entry = file.entries.get(name)
    if entry is None or (entry.kind, entry.shape) != (kind, shape):
        raise ValueError(f"it holds no {name} of shape {shape}")
    return bytes(file.read(entry))


def _numbers(state: Any) -> tuple[float, int, float]:
    if not isinstance(state, dict):
        raise ValueError("its state is damaged")
    tried = state.get("tried")
    if type(tried) is not int or not 0 <= tried < 1 << 40:
        raise ValueError(f"tried is {tried!r:.40}, wanted a count")
    error, spent = _number(state.get("error")), _number(state.get("spent"))
    if spent < 0:
        raise ValueError(f"its state has {spent} seconds")
    return error, tried, spent


def _number(number: Any) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float) or math.isnan(number):
        raise ValueError(f"its state has {number!r:.40}, wanted a number")
    return float(number)
