"""Router files: the two published formats (DiT's .pt, U-ViT's .pth) and ours (.safetensors).

All are untrusted: sizes are bounded before anything is read, nothing is executed, and only
ValueError leaves here, naming the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from l2c_rt.policies.router import Router
from l2c_rt.schedule.checks import MAX_CELLS, MAX_STEPS
from l2c_rt.untrusted.bounded_read import parse_json, read_bounded
from l2c_rt.untrusted.torch_pickle import Namespace, PickleReader, StoredTensor
from l2c_rt.untrusted.torch_zip import stored_records

FORMAT = "l2c_rt.router"
VERSION = "1"
# Logits, and the optimizer's two copies of them in DiT's files.
MAX_FILE_BYTES = 4 * 4 * MAX_CELLS
MAX_HEADER_BYTES = 4 << 20
PUBLISHED_LOOP = ("model", "image_size", "num_sampling_steps")
PUBLISHED_LEARNING = ("l1", "lr", "epochs", "max_steps", "global_batch_size", "ste_threshold")
ELEMENT_TYPES = {"FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2"}


def load_router(
    path: Path,
    family: str | None,
    steps: int | None,
    depth: int | None,
    branches: tuple[str, ...] | None,
) -> Router:
    """Read any of the three formats, told apart by suffix, and check it against what is given."""
    readers = {".pt": _published, ".pth": _published, ".safetensors": _ours}
    if path.suffix not in readers:
        raise ValueError(f"{path}: a router file ends in one of {', '.join(readers)}")
    content = read_bounded(path, MAX_FILE_BYTES, "router")
    try:
        router = readers[path.suffix](content, path.name, family)
        _check_wanted(router, family, steps, depth, branches)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return router


def save_router(router: Router, path: Path) -> None:
    """Write `router` as one float32 tensor `logits`, with the other fields in the header."""
    import safetensors.numpy

    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a router is saved as .safetensors, not {path.suffix!r}")
    header = {"format": FORMAT, "version": VERSION, "family": router.family}
    header |= {"steps": str(router.steps), "branches": json.dumps(router.branches)}
    header |= {name: getattr(router, name) for name in ("sampler", "source", "training")}
    safetensors.numpy.save_file({"logits": router.logits}, path, metadata=header)


def _check_wanted(
    router: Router,
    family: str | None,
    steps: int | None,
    depth: int | None,
    branches: tuple[str, ...] | None,
) -> None:
    wanted = None if branches is None else tuple(branches)
    found = {
        "family": (router.family, family),
        "steps": (router.steps, steps),
        "branches per row": (len(router.branches), None if depth is None else 2 * depth),
        "branches": (router.branches, wanted),
    }
    for name, (got, want) in found.items():
        if want is not None and got != want:
            raise ValueError(
                f"this router's {name}: {got!r:.60}, wanted {want!r:.60}; a router fits the model, "
                "depth and number of steps that it was learned for"
            )


def _published(content: bytes, name: str, family: str | None) -> Router:
    records = stored_records(content)
    prefixes = [n.removesuffix("data.pkl") for n in records if n.endswith("/data.pkl")]
    if len(prefixes) != 1:
        raise ValueError(
            f"{len(prefixes)} records data.pkl, wanted one; torch.save wrote no such file"
        )
    [prefix] = prefixes
    saved = PickleReader(bytes(records[prefix + "data.pkl"])).read()
    if not isinstance(saved, dict):
        raise ValueError(f"the file holds a {type(saved).__name__}, wanted a dict of router rows")
    table, training = saved, {}
    if "routers" in saved:
        table, training = saved["routers"], _training(saved.get("args"))
    logits = _stacked(table, records, prefix)
    found = family or ("dit" if "routers" in saved else "uvit")
    said = training.get("num_sampling_steps", len(logits))
    if said != len(logits):
        raise ValueError(f"its args say {said!r:.40} sampling steps, but it has {len(logits)} rows")
    text = json.dumps(training) if training else ""
    return Router(logits, found, len(logits), source=name, training=text)


def _training(args: object) -> dict[str, Any]:
    if not isinstance(args, Namespace):
        return {}
    wanted = (*PUBLISHED_LOOP, *PUBLISHED_LEARNING)
    found = {name: args.values[name] for name in wanted if name in args.values}
    # type(), not isinstance: what came out of the pickle is one of a few exact types.
    plain = {name: v for name, v in found.items() if v is None or type(v) in (bool, int, str)}
    plain |= {name: v for name, v in found.items() if type(v) is float and np.isfinite(v)}
    return {name: v for name, v in plain.items() if len(repr(v)) < 40}


def _stacked(table: object, records: dict[str, memoryview], prefix: str) -> npt.NDArray[np.float32]:
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
    order = _byte_order(records.get(prefix + "byteorder"))
    return np.stack([_row(table[name], records, prefix, order) for name in names])


def _columns(tensor: object, name: str) -> int:
    if not isinstance(tensor, StoredTensor):
        raise ValueError(f"{name} is no tensor")
    if len(tensor.shape) != 1 or tensor.stride != (1,) or tensor.storage.kind not in ELEMENT_TYPES:
        raise ValueError(
            f"{name} has shape {tensor.shape!r:.40} of {tensor.storage.kind:.40}, "
            f"wanted [branches] of one of {', '.join(ELEMENT_TYPES)}"
        )
    return tensor.shape[0]


def _byte_order(record: memoryview | None) -> str:
    order = b"little" if record is None else bytes(record[:8])
    if order not in (b"little", b"big"):
        raise ValueError(f"byte order {order!r}, wanted little or big")
    return "<" if order == b"little" else ">"


def _row(
    tensor: StoredTensor, records: dict[str, memoryview], prefix: str, order: str
) -> npt.NDArray[np.float32]:
    storage, size = tensor.storage, tensor.shape[0]
    dtype = np.dtype(order + ELEMENT_TYPES[storage.kind])
    content = records.get(f"{prefix}data/{storage.record}")
    held = 0 if content is None else len(content)
    if held != storage.numel * dtype.itemsize or tensor.offset + size > storage.numel:
        raise ValueError(
            f"storage {storage.record!r:.40} claims {storage.numel} elements, the row takes "
            f"{tensor.offset}..{tensor.offset + size} of them; the file holds {held} bytes"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        row = np.frombuffer(content or b"", dtype, size, tensor.offset * dtype.itemsize)
        return row.astype(np.float32)


def _ours(content: bytes, _name: str, family: str | None) -> Router:
    header, tensors = _safetensors_header(content)
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise ValueError(
            f"format {header.get('format')!r:.40} version {header.get('version')!r:.40}, "
            f"wanted {FORMAT} {VERSION}; save the router with this version of l2c_rt"
        )
    if tensors.keys() != {"logits"}:
        raise ValueError(f"the file holds {len(tensors)} tensors, wanted one named logits")
    steps, branches = header.get("steps", ""), parse_json(header.get("branches", "").encode())
    if not steps.isdecimal() or len(steps) > 6 or not isinstance(branches, list):
        raise ValueError(f"header field steps ({steps!r:.40}) or branches is damaged")
    fields = {name: header.get(name, "") for name in ("sampler", "source", "training")}
    found = family or header.get("family", "")
    return Router(_logits(content), found, int(steps), tuple(branches), **fields)


def _safetensors_header(content: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    size = int.from_bytes(content[:8], "little")
    if not 2 <= size <= min(MAX_HEADER_BYTES, len(content) - 8):
        raise ValueError(f"the safetensors header claims {size} bytes; the file has {len(content)}")
    tensors = parse_json(content[8 : 8 + size])
    header = tensors.pop("__metadata__", None) if isinstance(tensors, dict) else None
    if not isinstance(header, dict) or not all(isinstance(v, str) for v in header.values()):
        raise ValueError("a safetensors file without our header: this is no router")
    return header, tensors


def _logits(content: bytes) -> npt.NDArray[np.float32]:
    import safetensors
    import safetensors.numpy

    try:
        logits = safetensors.numpy.load(content)["logits"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"damaged safetensors file: {error}") from None
    if logits.dtype != np.float32:
        raise ValueError(f"logits are {logits.dtype}, wanted float32")
    return np.asarray(logits)
