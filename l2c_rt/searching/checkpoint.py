"""A search that is not done, in a file beside its schedule that a stopped one is taken up from."""

from __future__ import annotations

import io
import json
import math
import os
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from l2c_rt.searching.candidates import PLANS, Best, Recipe
from l2c_rt.searching.columns import Array
from l2c_rt.searching.trials import RUNS
from l2c_rt.searching.weightings import Measured, Weighting
from l2c_rt.untrusted.atomic_write import require_writable, write_whole
from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded
from l2c_rt.untrusted.safetensors_file import SafetensorsFile

FORMAT = "l2c_rt.search"
VERSION = "3"
MAX_FILE_BYTES = 1 << 29
Known = tuple[Measured, Best, float]
"""What was measured, the best candidate, and the seconds that were spent."""


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

    def save(self, measured: Measured, best: Best, spent: float) -> None:
        """Write what is known, whole or not at all."""
        import safetensors.numpy

        if self.path is None:
            return
        assert best.compute is not None
        state = {"errors": best.errors, "recipe": astuple(best.recipe), "tried": best.tried,
                 "spent": spent}  # fmt: skip
        header = {"format": FORMAT, "version": VERSION, "options": self.options,
                  "model": self.fingerprint, "state": json.dumps(state)}  # fmt: skip
        tables = {"errors": measured.errors, "weights": measured.weights, "compute": best.compute}
        write_whole(self.path, safetensors.numpy.save(tables, metadata=header))

    def load(self, shape: tuple[int, int, int], costs: Array) -> Known | None:
        """What is known, if anything.  Raises ValueError where it is of another search.

        Shapes: errors [S, K, A] = shape; costs [K], of the model.
        """
        if self.path is None or not self.path.exists():
            return None
        content = read_bounded(self.path, MAX_FILE_BYTES, "search")
        with naming(self.path):
            file = SafetensorsFile(io.BytesIO(content), len(content))
            self._check(file)
            errors = _floats(file, "errors", shape)
            weights = _floats(file, "weights", (2, shape[0]))
            table = np.frombuffer(_bytes(file, "compute", "BOOL", shape[:2]), np.uint8)
            if (errors < 0).any() or not np.isfinite(weights).all() or (table > 1).any():
                raise ValueError("it holds numbers that are negative, or not finite")
            best, spent = _best(parse_json(file.metadata.get("state", "").encode()))
        compute = table.astype(np.bool_).reshape(shape[:2])
        return Measured(errors, weights, costs), replace(best, compute=compute), spent

    def remove(self) -> None:
        """The search is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _check(self, file: SafetensorsFile) -> None:
        header = file.metadata
        if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
            raise ValueError(
                f"format {header.get('format')!r:.40} {header.get('version')!r:.40}, wanted "
                f"{FORMAT} {VERSION}: another version of l2c_rt began the search, and measured "
                "other things; go on with that one, or use resume=False to begin anew"
            )
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


def _floats(file: SafetensorsFile, name: str, shape: tuple[int, ...]) -> Array:
    numbers: Array = np.frombuffer(_bytes(file, name, "F64", shape), "<f8").reshape(shape)
    if np.isnan(numbers).any():
        raise ValueError(f"its {name} hold numbers that are none")
    return numbers


def _best(state: Any) -> tuple[Best, float]:
    """The best candidate, but for its table, and the seconds that were spent."""
    if not isinstance(state, dict):
        raise ValueError("its state is damaged")
    errors, tried, spent = state.get("errors"), state.get("tried"), _number(state.get("spent"))
    if not isinstance(errors, list) or not 1 <= len(errors) <= RUNS:
        raise ValueError(f"errors are {errors!r:.40}, wanted one of each run that judges")
    if type(tried) is not int or not 1 <= tried < 1 << 40:
        raise ValueError(f"tried is {tried!r:.40}, wanted a count")
    if spent < 0:
        raise ValueError(f"its state has {spent} seconds")
    return Best(None, tuple(map(_number, errors)), _recipe(state.get("recipe")), tried), spent


def _recipe(recipe: Any) -> Recipe:
    match recipe:
        case [[_, _, _] as numbers, int(plan)] if plan in range(len(PLANS)):
            return Recipe(Weighting(*map(_number, numbers)), plan)
    raise ValueError(
        f"recipe is {recipe!r:.60}, wanted three numbers and one of {len(PLANS)} plans"
    )


def _number(number: Any) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float) or math.isnan(number):
        raise ValueError(f"its state has {number!r:.40}, wanted a number")
    return float(number)
