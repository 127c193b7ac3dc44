"""Scale-shift: what is reused is scaled and shifted channel by channel, as was learned."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.checks import check_fingerprint, check_text
from l2c_rt.schedule.predictions import Predictions
from l2c_rt.untrusted.atomic_write import write_whole
from l2c_rt.untrusted.bounded_read import naming, open_regular
from l2c_rt.untrusted.safetensors_file import SafetensorsFile

FORMAT = "l2c_rt.scale_shift"
VERSION = "1"
MAX_FILE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ScaleShift:
    """`used = kept * (1 + scale) + shift` per channel, kept the last computed output of the branch.

    Shapes: scale, shift float32 [S, K, D], of the cells that the schedule with digest
    `schedule_digest` reuses.  `rt.fit_scale_shift` learns them; for a fixed grid of timesteps they
    are what the published linear layer of the time embedding gives.  Keeps one value of each
    branch, and two vectors of each reused cell.
    Source: Cache Me if You Can, arXiv 2312.03209, section 3.3.  No program is published, nor the
    loss: the fit is by least squares.
    Raises ValueError for tables of other shapes, or numbers that are not finite.
    """

    scale: npt.NDArray[np.float32]
    shift: npt.NDArray[np.float32]
    schedule_digest: str
    fingerprint: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("scale", "shift"):
            table: npt.NDArray[np.float32] = np.array(getattr(self, name), np.float32)
            table.setflags(write=False)
            object.__setattr__(self, name, table)
        if self.scale.ndim != 3 or self.scale.shape != self.shift.shape:
            raise ValueError(
                f"ScaleShift: scale is {list(self.scale.shape)} and shift "
                f"{list(self.shift.shape)}, wanted [steps, branches, channels] for both"
            )
        if not (np.isfinite(self.scale).all() and np.isfinite(self.shift).all()):
            raise ValueError("ScaleShift: a table holds numbers that are not finite; fit it again")
        check_fingerprint(self.fingerprint)
        for name in ("schedule_digest", "source"):
            check_text(name, getattr(self, name))

    @property
    def calibration(self) -> ScaleShift:
        """What `compile` compares with the model: this was learned on one."""
        return self

    def predictions(self, schedule: CacheSchedule) -> Predictions:
        """The adjusted values of the schedule that this was learned for, and of no other."""
        if schedule.digest != self.schedule_digest:
            raise ValueError(
                f"ScaleShift: learned for the schedule {self.schedule_digest[:20]}.., this one is "
                f"{schedule.digest[:20]}..; fit it again: rt.fit_scale_shift(model, schedule)"
            )
        cells = [(int(s), int(k)) for s, k in np.argwhere(~schedule.compute)]
        latest = [last_computed(schedule.compute[:, k]) for k in range(schedule.num_branches)]
        return Predictions.from_terms(
            schedule.steps,
            schedule.num_branches,
            {(s, k): [(latest[k][s], 1.0)] for s, k in cells},
            scale={(s, k): self.scale[s, k] for s, k in cells},
            shift={(s, k): self.shift[s, k] for s, k in cells},
        )

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file with a header and a digest of the tables."""
        import safetensors.numpy

        if Path(path).suffix != ".safetensors":
            raise ValueError(f"{path}: a scale-shift is saved as .safetensors")
        tables = {"scale": self.scale, "shift": self.shift}
        texts = ("schedule_digest", "fingerprint", "source")
        header = {"format": FORMAT, "version": VERSION, "digest": _digest(tables)}
        header |= {name: getattr(self, name) for name in texts}
        write_whole(path, safetensors.numpy.save(tables, metadata=header))

    @classmethod
    def load(cls, path: str | Path) -> ScaleShift:
        """Read a file that `save` wrote; ValueError names what is wrong with any other."""
        with naming(path), open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if not 8 < size <= MAX_FILE_BYTES:
                raise ValueError(f"{size} bytes, wanted at most {MAX_FILE_BYTES} for a scale-shift")
            return cls(**_fields(SafetensorsFile(stream, size)))

    def __repr__(self) -> str:
        steps, branches, channels = self.scale.shape
        return f"<ScaleShift {steps} steps x {branches} branches x {channels} channels>"


def last_computed(column: npt.NDArray[np.bool_]) -> list[int]:
    """For every evaluation, the last one up to it that computes.  Shapes: column [S]."""
    places = np.where(column, np.arange(len(column)), 0)
    latest: list[int] = np.maximum.accumulate(places).tolist()
    return latest


def _fields(file: SafetensorsFile) -> dict[str, Any]:
    header: Mapping[str, str] = file.metadata
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise ValueError(
            f"format {header.get('format')!r:.40} version {header.get('version')!r:.40}, wanted "
            f"{FORMAT} {VERSION}; fit it with this version of l2c_rt"
        )
    kinds = {name: entry.kind for name, entry in file.entries.items()}
    if kinds != {"scale": "F32", "shift": "F32"}:
        raise ValueError(f"the file holds {json.dumps(kinds)[:100]}, wanted scale and shift of F32")
    tables = {
        name: np.frombuffer(file.read(entry), "<f4").reshape(entry.shape)
        for name, entry in file.entries.items()
    }
    if _digest(tables) != header.get("digest"):
        raise ValueError("the digest does not match the tables; the file was damaged")
    texts = ("schedule_digest", "fingerprint", "source")
    return {**tables, **{name: header.get(name, "") for name in texts}}


def _digest(tables: Mapping[str, npt.NDArray[np.float32]]) -> str:
    digest = hashlib.sha256()
    for name in ("scale", "shift"):
        digest.update(f"{name} {tables[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(tables[name], "<f4").tobytes())
    return f"sha256:{digest.hexdigest()}"
