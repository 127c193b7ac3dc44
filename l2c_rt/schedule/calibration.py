"""What uncached runs of a model have shown, for the methods that decide by it; its file."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from l2c_rt.schedule.checks import (
    check_fingerprint,
    check_granularity,
    check_size,
    check_text,
    checked_branches,
    checked_timesteps,
)
from l2c_rt.untrusted.atomic_write import write_whole
from l2c_rt.untrusted.bounded_read import naming, open_regular, parse_json
from l2c_rt.untrusted.safetensors_file import SafetensorsFile

FORMAT = "l2c_rt.calibration"
VERSION = "1"
MAX_FILE_BYTES = 8 << 30
KINDS = {"F32": "<f4", "F64": "<f8", "BOOL": "?"}
TABLES = {"errors": np.float64, "magnitudes": np.float64, "prior": np.float32, "corrects": np.bool_}
TEXTS = ("family", "sampler", "source", "fingerprint", "granularity")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Calibration:
    """Uncached runs of S evaluations of a model with K branches, measured.

    Shapes: errors float64 [K, lookback, S - 1], as SmoothCache has them, NaN past the end;
    magnitudes float64 [calls per step, S], MagCache's ratios, [0, 0] where they were not measured;
    prior float32 [S, K, T, D], the mean output of every branch, and corrects bool [S, K], where
    EOC's correction lowers the error of held-out runs, both empty where not measured.
    The other fields are those of a CacheSchedule; `runs` were averaged.
    Raises ValueError where a field is not what it says above.
    """

    errors: npt.NDArray[np.float64]
    branches: tuple[str, ...]
    magnitudes: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    prior: npt.NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 0, 0, 0), np.float32)
    )
    corrects: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    family: str = ""
    sampler: str = ""
    source: str = ""
    fingerprint: str = ""
    granularity: str = "branch"
    timesteps: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name, dtype in TABLES.items():
            table: npt.NDArray[Any] = np.array(getattr(self, name), dtype=dtype)
            table.setflags(write=False)
            object.__setattr__(self, name, table)
        if self.errors.ndim != 3 or 0 in self.errors.shape:
            raise ValueError(
                f"calibration: errors are {list(self.errors.shape)}, wanted [branches, lookback, "
                "steps - 1]"
            )
        check_size(self.steps, len(self.errors))
        branches = checked_branches(self.branches, len(self.errors))
        object.__setattr__(self, "branches", branches)
        self._check_tables()
        for name in ("family", "sampler", "source"):
            check_text(name, getattr(self, name))
        check_fingerprint(self.fingerprint)
        check_granularity(self.granularity)
        object.__setattr__(self, "timesteps", checked_timesteps(self.timesteps, self.steps))

    @property
    def steps(self) -> int:
        """S, the number of evaluations of a run."""
        return int(self.errors.shape[2]) + 1

    def errors_by_branch(self) -> dict[str, npt.NDArray[np.float64]]:
        """[lookback, S - 1] of each branch."""
        return dict(zip(self.branches, self.errors, strict=True))

    def check_run(
        self, method: str, steps: int, branches: Sequence[str], timesteps: Sequence[float] | None
    ) -> None:
        """Raise ValueError where a run is not like those that were measured."""
        problem = ""
        if steps != self.steps:
            problem = f"it is of {self.steps} steps, the run has {steps}"
        elif tuple(branches) != self.branches:
            problem = (
                f"it is of {len(self.branches)} branches {self.branches[0]} .. "
                f"{self.branches[-1]}, the model has {len(branches)}, {branches[0]} .. "
                f"{branches[-1]}"
            )
        elif timesteps is not None and self.timesteps is not None:
            pairs = enumerate(zip(self.timesteps, timesteps, strict=True))
            problem = next(
                (f"evaluation {n} was at timestep {a:g}, in the run it is at {b:g}"
                 for n, (a, b) in pairs if not math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6)), "",
            )  # fmt: skip
        if problem:
            raise ValueError(
                f"{method}: the calibration does not fit: {problem}; calibrate for this run"
            )

    def header(self) -> dict[str, Any]:
        """The fields of a CacheSchedule that a schedule made from this has."""
        names = ("family", "sampler", "fingerprint", "granularity", "timesteps")
        return {name: getattr(self, name) for name in names}

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file with a header and a digest of the tables."""
        import safetensors.numpy

        if Path(path).suffix != ".safetensors":
            raise ValueError(f"{path}: a calibration is saved as .safetensors")
        tables = {name: getattr(self, name) for name in TABLES}
        header = {"format": FORMAT, "version": VERSION, "branches": json.dumps(self.branches)}
        header |= {name: getattr(self, name) for name in TEXTS}
        header |= {"timesteps": json.dumps(self.timesteps), "digest": _digest(tables)}
        write_whole(path, safetensors.numpy.save(tables, metadata=header))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read a file that `save` wrote; ValueError names what is wrong with any other."""
        with naming(str(path)):
            return cls(**_read(Path(path)))

    def _check_tables(self) -> None:
        steps, count = self.steps, len(self.errors)
        bad = (self.errors < 0).any() or np.isinf(self.errors).any()
        for name in ("magnitudes", "prior"):
            bad |= not np.isfinite(getattr(self, name)).all()
        shapes = {"magnitudes": (self.magnitudes.shape[1:], (steps,)),
                  "prior": (self.prior.shape[:2], (steps, count)),
                  "corrects": (self.corrects.shape, (steps, count))}  # fmt: skip
        for name, (got, wanted) in shapes.items():
            if getattr(self, name).size and got != wanted:
                raise ValueError(
                    f"calibration: {name} is {list(getattr(self, name).shape)}, wanted it for "
                    f"{steps} steps and {count} branches"
                )
        if bad or self.magnitudes.ndim != 2 or self.prior.ndim != 4:
            raise ValueError("calibration: a table holds numbers that are not finite, or negative")

    def __repr__(self) -> str:
        return f"<Calibration {self.steps} steps x {len(self.branches)} branches, {self.source}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Calibration, tuple(getattr(self, f.name) for f in fields(self))


def calibration_of(source: Calibration | str | os.PathLike[str]) -> Calibration:
    """A calibration, or the one in a file."""
    if not isinstance(source, Calibration | str | os.PathLike):
        raise TypeError(f"got {source!r:.60}, wanted a calibration or its file")
    return source if isinstance(source, Calibration) else Calibration.load(source)


def header_of(
    method: str,
    calibration: Calibration | None,
    steps: int,
    branches: Sequence[str],
    timesteps: Sequence[float] | None,
) -> dict[str, Any]:
    """What a schedule says of the calibration that it was made from, which must fit the run."""
    if calibration is None:
        return {}
    calibration.check_run(method, steps, branches, timesteps)
    return calibration.header()


def _digest(tables: dict[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in TABLES:
        table = tables[name]
        digest.update(f"{name} {table.dtype.str} {table.shape}\n".encode())
        digest.update(np.ascontiguousarray(table).view(np.uint8).data)
    return f"sha256:{digest.hexdigest()}"


def _read(path: Path) -> dict[str, Any]:
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if not 8 < size <= MAX_FILE_BYTES:
            raise ValueError(f"{size} bytes, wanted at most {MAX_FILE_BYTES} for a calibration")
        file = SafetensorsFile(stream, size)
        header = file.metadata
        if header.get("format") != FORMAT or header.get("version") != VERSION:
            raise ValueError(
                f"format {header.get('format')!r:.40} version {header.get('version')!r:.40}, "
                f"wanted {FORMAT} {VERSION}; calibrate with this version of l2c_rt"
            )
        if file.entries.keys() != TABLES.keys():
            raise ValueError(f"the file holds {sorted(file.entries)[:6]}, wanted {list(TABLES)}")
        tables = {}
        for name, dtype in TABLES.items():
            entry = file.entries[name]
            if KINDS.get(entry.kind) is None or np.dtype(KINDS[entry.kind]) != np.dtype(dtype):
                raise ValueError(f"{name} are {entry.kind}, wanted {np.dtype(dtype).name}")
            array = np.frombuffer(file.read(entry), KINDS[entry.kind])
            tables[name] = array.reshape(entry.shape)
    if _digest(tables) != header.get("digest"):
        raise ValueError("the digest does not match the tables; the file was damaged")
    branches = parse_json(header.get("branches", "null").encode())
    if not isinstance(branches, list):
        raise ValueError("header field branches is damaged")
    timesteps = parse_json(header.get("timesteps", "null").encode())
    texts = {name: header.get(name, "") for name in TEXTS}
    return {**tables, **texts, "branches": tuple(branches), "timesteps": timesteps}
