"""Router files: the two published formats (DiT's .pt, U-ViT's .pth) and ours (.safetensors).

All are untrusted: sizes are bounded before anything is read, nothing is executed, and only
ValueError leaves here, naming the file. Plain fields go in and out; Router checks what they hold.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from l2c_rt.schedule.checks import MAX_CELLS, MAX_STEPS
from l2c_rt.schedule.prediction_files import from_tensors, unconditional_header
from l2c_rt.schedule.predictions import Predictions
from l2c_rt.untrusted.atomic_write import write_whole
from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded
from l2c_rt.untrusted.safetensors_file import SafetensorsFile
from l2c_rt.untrusted.torch_pickle import Namespace, PickleReader, StoredTensor
from l2c_rt.untrusted.torch_zip import TorchArchive

FORMAT = "l2c_rt.router"
VERSIONS = ("1", "2")
"""Of the second one are routers whose coefficients, learned or fitted, are lane by lane."""

# Logits, the optimizer's copies of them in DiT's files, and in ours what predicts each cell.
MAX_FILE_BYTES = 4 * 16 * MAX_CELLS
PUBLISHED_LOOP = ("model", "image_size", "num_sampling_steps")
PUBLISHED_LEARNING = ("l1", "lr", "epochs", "max_steps", "global_batch_size", "ste_threshold")
ELEMENT_TYPES = {"FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2"}

TENSORS = {"logits": ("F32", "<f4"), "coefficients": ("F32", "<f4"),
           "fitted_sources": ("I16", "<i2"), "fitted_coefficients": ("F64", "<f8")}  # fmt: skip
FITTED = {"fitted_sources", "fitted_coefficients"}

Scores = npt.NDArray[np.float32]


class Fields(TypedDict):
    """A router as plain fields, as Router describes them.  Shapes: logits [R, K] float32."""

    logits: Scores
    family: str
    steps: int
    branches: tuple[str, ...]
    sampler: str
    source: str
    training: str
    fingerprint: str
    timesteps: tuple[float, ...] | None
    granularity: str
    coefficients: Scores | None
    fitted: Predictions | None


def read(path: str | Path) -> Fields:
    """The fields in a file of any of the three formats, told apart by suffix."""
    path = Path(path)
    readers = {".pt": _published, ".pth": _published, ".safetensors": _ours}
    if path.suffix not in readers:
        raise ValueError(f"{path}: a router file ends in one of {', '.join(readers)}")
    content = read_bounded(path, MAX_FILE_BYTES, "router")
    with naming(path):
        return readers[path.suffix](content, path.name)


def write(path: str | Path, fields: Fields) -> None:
    """Write the float32 tensor `logits`, and `coefficients` and `fitted` where there are any, with
    the other fields in the header."""
    import safetensors.numpy

    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path}: a router is saved as .safetensors, not {Path(path).suffix!r}")
    coefficients, fitted = fields["coefficients"], fields["fitted"]
    by_lane = coefficients is not None and coefficients.ndim == 4
    by_lane = by_lane or (fitted is not None and fitted.lanes > 1)
    header = {"format": FORMAT, "version": VERSIONS[by_lane], "family": fields["family"]}
    header |= {"steps": str(fields["steps"]), "branches": json.dumps(fields["branches"])}
    header |= {"sampler": fields["sampler"], "source": fields["source"]}
    header |= {"training": fields["training"]}
    if fields["fingerprint"]:
        header["fingerprint"] = fields["fingerprint"]
    if fields["timesteps"] is not None:
        header["timesteps"] = json.dumps(fields["timesteps"])
    if fields["granularity"] != "branch":
        header["granularity"] = fields["granularity"]
    tensors: dict[str, npt.NDArray[Any]] = {"logits": fields["logits"]}
    if coefficients is not None:
        tensors["coefficients"] = coefficients
    if fitted is not None:
        # Copies, since the writer wants memory of its own.
        tensors["fitted_sources"] = np.array(fitted.sources)
        tensors["fitted_coefficients"] = np.array(fitted.stored)
        header |= unconditional_header(fitted)
    write_whole(path, safetensors.numpy.save(tensors, metadata=header))


def _published(content: bytes, name: str) -> Fields:
    archive = TorchArchive(io.BytesIO(content), len(content))
    saved = PickleReader(archive.read("data.pkl")).read()
    if not isinstance(saved, dict):
        raise ValueError(f"the file holds a {type(saved).__name__}, wanted a dict of router rows")
    table, training = saved, {}
    if "routers" in saved:
        table, training = saved["routers"], _training(saved.get("args"))
    logits = _stacked(table, archive)
    steps = training.get("num_sampling_steps", len(logits))
    if steps != len(logits):
        raise ValueError(f"its args say {steps!r:.40} sampling steps; it has {len(logits)} rows")
    return {
        "logits": logits,
        "family": "dit" if "routers" in saved else "uvit",
        "steps": len(logits),
        "branches": (),
        "sampler": "",
        "source": name,
        "training": json.dumps(training) if training else "",
        "fingerprint": "",
        "timesteps": None,
        "granularity": "branch",
        "coefficients": None,
        "fitted": None,
    }


def _training(args: object) -> dict[str, Any]:
    if not isinstance(args, Namespace):
        return {}
    names = (*PUBLISHED_LOOP, *PUBLISHED_LEARNING)
    values = {name: args.values[name] for name in names if name in args.values}
    # type(), not isinstance: what came out of the pickle is one of a few exact types.
    plain = {name: v for name, v in values.items() if v is None or type(v) in (bool, int, str)}
    plain |= {name: v for name, v in values.items() if type(v) is float and np.isfinite(v)}
    return {name: v for name, v in plain.items() if len(repr(v)) < 40}


def _stacked(table: object, archive: TorchArchive) -> Scores:
    if not isinstance(table, dict) or not 0 < len(table) <= MAX_STEPS:
        raise ValueError(
            f"a router is a dict of 1..{MAX_STEPS} rows, this is a {type(table).__name__}"
        )
    names = [f"{row}.prob" for row in range(len(table))]
    if set(names) != table.keys():
        odd = sorted(str(key)[:40] for key in table.keys() - set(names))[:3]
        raise ValueError(f'rows are not named "0.prob".."{names[-1]}", but for example {odd}')
    columns = {_columns(table[name], name) for name in names}
    if len(columns) != 1 or len(names) * max(columns) > MAX_CELLS:
        raise ValueError(f"rows have {sorted(columns)[:5]} scores each, wanted one number for all")
    return np.stack([_row(table[name], archive) for name in names])


def _columns(tensor: object, name: str) -> int:
    if not isinstance(tensor, StoredTensor):
        raise ValueError(f"{name} is not a tensor")
    if len(tensor.shape) != 1 or tensor.stride != (1,) or tensor.storage.kind not in ELEMENT_TYPES:
        raise ValueError(
            f"{name} has shape {tensor.shape!r:.40} of {tensor.storage.kind:.40}, "
            f"wanted [branches] of one of {', '.join(ELEMENT_TYPES)}"
        )
    return tensor.shape[0]


def _row(tensor: StoredTensor, archive: TorchArchive) -> Scores:
    dtype = np.dtype(archive.byte_order + ELEMENT_TYPES[tensor.storage.kind])
    content = archive.elements(tensor, dtype.itemsize)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.frombuffer(content, dtype).astype(np.float32)


def _ours(content: bytes, _name: str) -> Fields:
    file = SafetensorsFile(io.BytesIO(content), len(content))
    header = file.metadata
    if header.get("format") != FORMAT or header.get("version") not in VERSIONS:
        raise ValueError(
            f"format {header.get('format')!r:.40} version {header.get('version')!r:.40}, "
            f"wanted {FORMAT} {' or '.join(VERSIONS)}; save the router with this version of l2c_rt"
        )
    names = file.entries.keys()
    if not {"logits"} <= names <= TENSORS.keys() or len(FITTED & names) == 1:
        raise ValueError(f"the file holds {len(names)} tensors, wanted one named logits")
    tensors = {name: _tensor(file, name) for name in names}
    steps, branches = header.get("steps", ""), parse_json(header.get("branches", "").encode())
    if not steps.isdecimal() or len(steps) > 6 or not isinstance(branches, list):
        raise ValueError(f"header field steps ({steps!r:.40}) or branches is damaged")
    return {
        "logits": tensors["logits"],
        "family": header.get("family", ""),
        "steps": int(steps),
        "branches": tuple(branches),
        "sampler": header.get("sampler", ""),
        "source": header.get("source", ""),
        "training": header.get("training", ""),
        "fingerprint": header.get("fingerprint", ""),
        "timesteps": parse_json(header.get("timesteps", "null").encode()),
        "granularity": header.get("granularity", "branch"),
        "coefficients": tensors.get("coefficients"),
        "fitted": from_tensors(tensors["fitted_sources"], tensors["fitted_coefficients"], header)
        if names >= FITTED
        else None,
    }


def _tensor(file: SafetensorsFile, name: str) -> npt.NDArray[Any]:
    (kind, dtype), entry = TENSORS[name], file.entries[name]
    if entry.kind != kind:
        raise ValueError(f"{name} are {entry.kind}, wanted {kind}")
    return np.frombuffer(file.read(entry), dtype).reshape(entry.shape)
