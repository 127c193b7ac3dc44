"""Files of fitted coefficients: a safetensors file with a header; untrusted.

Plain fields go in and out; CacheSchedule and Predictions check what they hold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from l2c_rt.schedule import files
from l2c_rt.schedule.checks import MAX_CELLS
from l2c_rt.schedule.prediction_files import from_tensors, unconditional_header
from l2c_rt.untrusted.atomic_write import write_whole
from l2c_rt.untrusted.bounded_read import open_regular, parse_json
from l2c_rt.untrusted.safetensors_file import SafetensorsFile

FORMAT = "l2c_rt.fitted"
VERSIONS = {"1": False, "2": True}
"""Whether there are lanes with coefficients of their own; without, older versions read the file."""

KINDS = {"compute": ("BOOL", "?"), "sources": ("I16", "<i2"), "coefficients": ("F64", "<f8")}
TEXTS = ("family", "sampler", "source", "fingerprint", "granularity")
MAX_FILE_BYTES = 16 * 10 * MAX_CELLS
"""Of a schedule of the largest size with sixteen terms a cell."""


def write(path: str | os.PathLike[str], fields: files.Fields) -> None:
    """Write the fields of a schedule with predictions.  Raises ValueError for another suffix."""
    import safetensors.numpy

    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path}: a fitted corrector is saved as .safetensors")
    predictions = fields["predictions"]
    assert predictions is not None
    if predictions.scale or predictions.shift:
        raise ValueError("Fitted: tensors that scale or shift a prediction are not saved")
    tables = {
        "compute": np.array(fields["compute"]),
        "sources": np.array(predictions.sources),
        "coefficients": np.array(predictions.stored),
    }
    version = "2" if predictions.lanes > 1 else "1"
    header = {"format": FORMAT, "version": version, "branches": json.dumps(fields["branches"])}
    header |= {"lanes": str(predictions.lanes)} if predictions.lanes > 1 else {}
    header |= unconditional_header(predictions)
    header |= {"digest": files.digest(fields["compute"], fields["branches"], predictions)}
    header |= {name: fields[name] for name in TEXTS}  # type: ignore[literal-required]
    header |= {"timesteps": json.dumps(fields["timesteps"])}
    header |= {"calls_per_step": str(fields["calls_per_step"])}
    write_whole(Path(path), safetensors.numpy.save(tables, metadata=header))


def read(path: str | os.PathLike[str]) -> tuple[files.Fields, str]:
    """The fields in a file of `write`, and the digest that they have to have."""
    with open_regular(Path(path)) as stream:
        size = os.fstat(stream.fileno()).st_size
        if not 8 < size <= MAX_FILE_BYTES:
            raise ValueError(f"{size} bytes, wanted at most {MAX_FILE_BYTES} for a fit")
        file = SafetensorsFile(stream, size)
        header = file.metadata
        if header.get("format") != FORMAT or header.get("version") not in VERSIONS:
            raise ValueError(
                f"format {header.get('format')!r:.40} version {header.get('version')!r:.40}, "
                f"wanted {FORMAT} 1 or 2; fit with this version of l2c_rt"
            )
        if file.entries.keys() != KINDS.keys():
            raise ValueError(f"the file holds {sorted(file.entries)[:6]}, wanted {list(KINDS)}")
        _check_lanes(file, header)
        tables = {name: _table(file, name) for name in KINDS}
    branches = parse_json(header.get("branches", "null").encode())
    calls = header.get("calls_per_step", "")
    if not isinstance(branches, list) or not calls.isdecimal() or len(calls) > 6:
        raise ValueError("header field branches or calls_per_step is damaged")
    fields: files.Fields = {
        "compute": tables["compute"],
        "branches": tuple(branches),
        "calls_per_step": int(calls),
        "timesteps": parse_json(header.get("timesteps", "null").encode()),
        "predictions": from_tensors(tables["sources"], tables["coefficients"], header),
    }
    for name in TEXTS:
        fields[name] = header.get(name, "")  # type: ignore[literal-required]
    return fields, header.get("digest", "")


def _check_lanes(file: SafetensorsFile, header: Mapping[str, str]) -> None:
    """Raise ValueError where the header says another number of lanes than the table has."""
    shape, has_lanes = file.entries["coefficients"].shape, VERSIONS[header["version"]]
    lanes = str(shape[0]) if len(shape) == 4 else "1"
    if has_lanes != (len(shape) == 4) or header.get("lanes", "1") != lanes:
        raise ValueError(
            f"header field lanes is {header.get('lanes')!r:.40} in version {header['version']}, "
            f"the coefficients are {list(shape)}"
        )


def _table(file: SafetensorsFile, name: str) -> np.ndarray[tuple[int, ...], np.dtype[Any]]:
    (kind, dtype), entry = KINDS[name], file.entries[name]
    if entry.kind != kind:
        raise ValueError(f"{name} are {entry.kind}, wanted {kind}")
    return np.frombuffer(file.read(entry), dtype).reshape(entry.shape)
