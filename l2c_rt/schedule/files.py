"""Schedule files: our JSON, with a header and one readable line per evaluation, and SmoothCache's.

Files are untrusted: their size is bounded before they are read, and only ValueError leaves here.
Tables and plain fields go in and out; CacheSchedule checks what the header's fields hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from l2c_rt.schedule import prediction_files
from l2c_rt.schedule.checks import check_size, checked_branches
from l2c_rt.schedule.halves import HalfSchedule
from l2c_rt.schedule.predictions import Predictions
from l2c_rt.schedule.tokens import TokenSchedule
from l2c_rt.untrusted.atomic_write import write_whole
from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded

FORMAT = "l2c_rt.schedule"
VERSION = 1
MAX_FILE_BYTES = 8 << 20
HEADER = ("family", "sampler", "calls_per_step", "threshold", "source", "timesteps",
          "fingerprint", "granularity")  # fmt: skip
LEFT_OUT = {"fingerprint": "", "granularity": "branch"}
"""Values that are not written, so that older versions read the file."""

KINDS = {"attn": "attn", "attn1": "attn", "mlp": "mlp", "ff": "mlp"}
"""SmoothCache's types, diffusers' names among them, and ours."""

REQUIRED = {"format", "version", "steps", "digest", "branches", "rows"}
OPTIONAL = {*HEADER, "predictions", "unconditional"}

BoolArray = npt.NDArray[np.bool_]


class Header(TypedDict, total=False):
    """The fields of a schedule beside its table, as CacheSchedule describes them."""

    family: str
    sampler: str
    calls_per_step: int
    threshold: float | None
    source: str
    timesteps: tuple[float, ...] | None
    fingerprint: str
    granularity: str
    predictions: Predictions | None
    tokens: TokenSchedule | None
    halves: HalfSchedule | None


class Fields(Header):
    """A schedule as plain fields.  Shapes: compute [S, K], with K names in `branches`."""

    compute: BoolArray
    branches: tuple[str, ...]


def write(path: str | Path, fields: Fields) -> None:
    """Write JSON that a diff shows evaluation by evaluation."""
    write_whole(path, json_text(fields))


def read(path: str | Path) -> Fields:
    """The fields in a file of `write`; ValueError names the file and what is wrong with it."""
    content = read_bounded(path, MAX_FILE_BYTES, "schedule")
    with naming(path):
        return parse(content)


def json_text(fields: Fields) -> str:
    """The JSON text of a schedule."""
    rows = _row_texts(fields["compute"])
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    header |= {name: value for name, value in fields.items() if name in HEADER}
    header = {name: v for name, v in header.items() if name not in LEFT_OUT or v != LEFT_OUT[name]}
    predictions = fields.get("predictions")
    code = digest(fields["compute"], fields["branches"], predictions)
    header |= {"steps": len(rows), "digest": code, "branches": fields["branches"]}
    if predictions is not None:
        header["predictions"] = prediction_files.listed(predictions)
        if predictions.unconditional is not None:
            header["unconditional"] = predictions.unconditional
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in header.items()]
    table = ",\n".join(f'    "{row}"' for row in rows)
    return "\n".join(["{", *lines, '  "rows": [', table, "  ]", "}", ""])


def parse(content: bytes) -> Fields:
    """The fields in a JSON text; ValueError says what is wrong with any other."""
    entries = parse_json(content)
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise ValueError(
            f'not a schedule: wanted a JSON object with "format": "{FORMAT}"; '
            "SmoothCache's files have none, and CacheSchedule.from_smoothcache reads those"
        )
    if entries.get("version") != VERSION or isinstance(entries["version"], bool):
        raise ValueError(
            f"format version {entries.get('version')!r:.80}, this l2c_rt reads version {VERSION}; "
            "update l2c_rt or save the file again"
        )
    if "lanes" in entries and "calls_per_step" not in entries:
        # What the field was called at first.
        entries["calls_per_step"] = entries.pop("lanes")
    missing, unknown = REQUIRED - entries.keys(), entries.keys() - REQUIRED - OPTIONAL
    if missing or unknown:
        names = sorted(ascii(name[:40]) for name in missing or unknown)[:5]
        raise ValueError(f"{'missing' if missing else 'unknown'} keys: {', '.join(names)}")
    compute, branches = _table(entries["rows"], entries["branches"], entries["steps"])
    predictions = _predictions(entries, *compute.shape)
    code = digest(compute, branches, predictions)
    if code != entries["digest"]:
        raise ValueError(
            f"digest {entries['digest']!r:.80} does not match the rows, whose digest is "
            f"{code}; the file was damaged or edited by hand"
        )
    fields: Fields = {name: entries[name] for name in HEADER if name in entries}  # type: ignore[assignment]
    return {**fields, "compute": compute, "branches": branches, "predictions": predictions}


def _predictions(entries: dict[str, Any], steps: int, num_branches: int) -> Predictions | None:
    if "predictions" not in entries:
        return None
    unconditional = entries.get("unconditional")
    return prediction_files.parse(entries["predictions"], steps, num_branches, unconditional)


def digest(
    compute: BoolArray, branches: Sequence[str], predictions: Predictions | None = None
) -> str:
    """sha256 of the branch names and then the rows, each as a line of ASCII, and the predictions.

    Shapes: compute [S, K].  The header is not part of it.
    """
    lines = "".join(f"{line}\n" for line in (*branches, *_row_texts(compute)))
    content = lines.encode("ascii") + (predictions.digest_bytes() if predictions else b"")
    return "sha256:" + hashlib.sha256(content).hexdigest()


def to_smoothcache(compute: BoolArray, branches: Sequence[str]) -> dict[str, list[int]]:
    """{branch: [1 compute | 0 reuse, one per evaluation]}."""
    return dict(zip(branches, compute.T.astype(int).tolist(), strict=True))


def read_smoothcache(path: str | Path, blocks: int | None) -> Fields:
    """The table in a JSON file of SmoothCache's, as `parse_smoothcache`; `source` is its name."""
    content = read_bounded(path, MAX_FILE_BYTES, "SmoothCache schedule")
    with naming(path):
        return {**parse_smoothcache(parse_json(content), blocks), "source": Path(path).name}


def parse_smoothcache(columns: Mapping[str, list[int]], blocks: int | None) -> Fields:
    """The table in SmoothCache's dict, keyed by branch or, with `blocks`, by type.

    As SmoothCache does, "attn1" and "ff" are read as attention and MLP, and those that are not
    listed are computed. Branches are put in execution order: by block, attention before MLP, other
    types as they come.
    """
    if not isinstance(columns, Mapping) or not columns:
        raise ValueError('a SmoothCache schedule is an object {"attn-0": [1, 0, ...], ...}')
    columns = _spread_types(columns, blocks)
    steps = _checked_columns(columns)
    columns = _completed(columns, steps)
    names = _execution_order(tuple(columns))
    check_size(steps, len(names))
    compute = np.array([columns[name] for name in names], dtype=np.bool_).T
    return {"compute": compute, "branches": names}


def _row_texts(compute: BoolArray) -> list[str]:
    return ["".join("1" if c else "0" for c in row) for row in compute.tolist()]


def _table(rows: Any, branches: Any, steps: Any) -> tuple[BoolArray, tuple[str, ...]]:
    for name, texts in (("rows", rows), ("branches", branches)):
        if not isinstance(texts, list) or not all(isinstance(value, str) for value in texts):
            raise ValueError(f"{name} is not a list of strings")
    if isinstance(steps, bool) or steps != len(rows):
        raise ValueError(f"the header says {steps!r:.40} steps, the file has {len(rows)} rows")
    check_size(len(rows), len(branches))
    for step, row in enumerate(rows):
        if len(row) != len(branches) or row.strip("01"):
            raise ValueError(
                f"row {step} is {row!r:.40}, wanted {len(branches)} characters 1 (compute) or 0"
            )
    digits = np.frombuffer("".join(rows).encode("ascii"), np.uint8)
    compute = digits.reshape(len(rows), len(branches)) == ord("1")
    return compute, checked_branches(branches, len(branches))


def _spread_types(columns: Mapping[str, list[int]], blocks: int | None) -> Mapping[str, list[int]]:
    if blocks is None:
        return columns
    check_size(1, blocks * len(columns))
    if any(name.rpartition("-")[2].isdecimal() for name in columns):
        raise ValueError(f"keys are branches already ({next(iter(columns))!r:.40}); drop blocks=")
    return {f"{kind}-{b}": column for b in range(blocks) for kind, column in columns.items()}


def _completed(columns: Mapping[str, list[int]], steps: int) -> Mapping[str, list[int]]:
    """SmoothCache's branches by our names, those that it leaves out, and so computes, added.

    Only where all of them are attention and MLP; other models' keys stay as they are.
    """
    parts = {name: name.rpartition("-") for name in columns}
    ours = (
        kind in KINDS and block.isdecimal() and len(block) < 6 for kind, _, block in parts.values()
    )
    if not all(ours):
        return columns
    named = {
        f"{KINDS[kind]}-{int(block)}": columns[name] for name, (kind, _, block) in parts.items()
    }
    if len(named) != len(columns):
        raise ValueError("two keys are one branch, as attn-0 and attn1-0 are; leave one out")
    blocks = 1 + max(int(block) for _, _, block in parts.values())
    check_size(steps, 2 * blocks)
    return {name: named.get(name, [1] * steps)
            for b in range(blocks) for name in (f"attn-{b}", f"mlp-{b}")}  # fmt: skip


def _checked_columns(columns: Mapping[str, list[int]]) -> int:
    lengths = set()
    for name, column in columns.items():
        if not isinstance(column, list) or not all(c in (0, 1) for c in column):
            raise ValueError(f"{name!r:.40} is not a list of 1 (compute) and 0 (reuse)")
        lengths.add(len(column))
    if len(lengths) != 1:
        raise ValueError(f"branches have different numbers of steps: {sorted(lengths)[:5]}")
    return lengths.pop()


def _execution_order(names: tuple[str, ...]) -> tuple[str, ...]:
    parts = [name.rpartition("-") for name in names]
    if not all(kind and block.isdecimal() for kind, _, block in parts):
        if not any(dash for _, dash, _ in parts):
            raise ValueError(f"keys are types ({', '.join(names)!r:.60}); give blocks=")
        return names
    rank = {kind: r for r, kind in enumerate(dict.fromkeys(kind for kind, _, _ in parts))}
    order = sorted(range(len(names)), key=lambda k: (int(parts[k][2]), rank[parts[k][0]]))
    return tuple(names[k] for k in order)
