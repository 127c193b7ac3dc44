"""The sums of a fit that is not done, in a file beside it that a stopped one is taken up from."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l2c_rt.regression.fits import Fits
from l2c_rt.schedule.checks import checked_timesteps
from l2c_rt.untrusted.atomic_write import require_writable, write_whole
from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded
from l2c_rt.untrusted.safetensors_file import SafetensorsFile

FORMAT = "l2c_rt.fit_sums"
VERSION = "3"
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`path` is None where nothing is written; `options` are what the sums depend on."""

    path: Path | None
    options: str
    fingerprint: str

    @staticmethod
    def of(
        out: str | os.PathLike[str] | None, options: dict[str, Any], fingerprint: str
    ) -> Checkpoint:
        """That of a fit written to `out`.  Raises ValueError where it cannot be."""
        if out is not None:
            require_writable(Path(out))
            if Path(out).suffix != ".safetensors":
                raise ValueError(f"{out}: a fitted corrector is saved as .safetensors")
        path = None if out is None else Path(out).with_suffix(".sums.safetensors")
        return Checkpoint(path, json.dumps(options), fingerprint)

    def save(self, fits: Sequence[Fits], done: int, timesteps: tuple[float, ...] | None) -> None:
        """Write the sums after `done` runs, whole or not at all."""
        import safetensors.numpy

        if self.path is None:
            return
        grams = np.stack([fit.grams for fit in fits])
        header = {"format": FORMAT, "version": VERSION, "options": self.options,
                  "model": self.fingerprint, "done": str(done),
                  "timesteps": json.dumps(timesteps)}  # fmt: skip
        write_whole(self.path, safetensors.numpy.save({"grams": grams}, metadata=header))

    def load(self, fits: Sequence[Fits]) -> tuple[int, tuple[float, ...] | None] | None:
        """Take up the sums, if any: how many runs were done, and their timesteps.

        Raises ValueError for those of another fit.
        """
        if self.path is None or not self.path.exists():
            return None
        content = read_bounded(self.path, MAX_FILE_BYTES, "fit")
        with naming(self.path):
            file = SafetensorsFile(io.BytesIO(content), len(content))
            header, entry = file.metadata, file.entries.get("grams")
            if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
                raise ValueError(f"format {header.get('format')!r:.40}, wanted {FORMAT} {VERSION}")
            if (header.get("options"), header.get("model")) != (self.options, self.fingerprint):
                raise ValueError(
                    f"the fit was begun with {header.get('options')!r:.200} on a model of its own, "
                    f"now it is {self.options}; use the same, or resume=False to begin anew"
                )
            shape = (len(fits), *fits[0].grams.shape)
            if entry is None or (entry.kind, entry.shape) != ("F64", shape):
                raise ValueError(f"it holds no sums of shape {shape}")
            done = header.get("done", "")
            if not done.isdecimal() or len(done) > 6:
                raise ValueError(f"done is {done!r:.40}, wanted the runs that were done")
            grams = np.frombuffer(file.read(entry), "<f8").reshape(entry.shape)
            if not np.isfinite(grams).all():
                raise ValueError("it holds numbers that are not finite")
            times = parse_json(header.get("timesteps", "null").encode())
            timesteps = checked_timesteps(times, len(fits[0].compute))
        for fit, sums in zip(fits, grams, strict=True):
            fit.grams[...] = sums
        return int(done), timesteps

    def remove(self) -> None:
        """The fit is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
