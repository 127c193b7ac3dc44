"""Schedule files: our JSON, with a header and one readable line per evaluation, and SmoothCache's.

Files are untrusted: their size is bounded before they are read, and only ValueError leaves here.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.checks import check_size
from l2c_rt.untrusted.bounded_read import parse_json, read_bounded

FORMAT = "l2c_rt.schedule"
VERSION = 1
MAX_FILE_BYTES = 8 << 20
HEADER = ("family", "sampler", "lanes", "threshold", "source", "timesteps")
REQUIRED = {"format", "version", "steps", "digest", "branches", "rows"}


def save_schedule(schedule: CacheSchedule, path: str | Path) -> None:
    """Write `schedule` as JSON that a diff shows evaluation by evaluation."""
    Path(path).write_text(schedule_text(schedule), encoding="utf-8")


def load_schedule(path: str | Path) -> CacheSchedule:
    """Read a file of `save_schedule`; ValueError names the file and what is wrong with it."""
    text = read_bounded(path, MAX_FILE_BYTES, "schedule")
    try:
        return parse_schedule(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def schedule_text(schedule: CacheSchedule) -> str:
    """The JSON text of `schedule`."""
    fields: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    fields |= {name: getattr(schedule, name) for name in HEADER}
    fields |= {"steps": schedule.steps, "digest": schedule.digest, "branches": schedule.branches}
    lines = [f"  {json.dumps(name)}: {json.dumps(fields[name])}," for name in fields]
    rows = ",\n".join(f'    "{row}"' for row in _row_texts(schedule))
    return "\n".join(["{", *lines, '  "rows": [', rows, "  ]", "}", ""])


def parse_schedule(text: bytes) -> CacheSchedule:
    """The schedule in a JSON text; ValueError says what is wrong with any other."""
    fields = parse_json(text)
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ValueError(
            f'no schedule: wanted a JSON object with "format": "{FORMAT}"; '
            "for SmoothCache's files call CacheSchedule.from_smoothcache(path, blocks=...)"
        )
    if fields.get("version") != VERSION or isinstance(fields["version"], bool):
        raise ValueError(
            f"format version {fields.get('version')!r:.80}, this l2c_rt reads version {VERSION}; "
            "update l2c_rt or save the file again"
        )
    missing, unknown = REQUIRED - fields.keys(), fields.keys() - REQUIRED - set(HEADER)
    if missing or unknown:
        names = sorted(ascii(name[:40]) for name in missing or unknown)[:5]
        raise ValueError(f"{'missing' if missing else 'unknown'} keys: {', '.join(names)}")
    return _schedule_of(fields)


def schedule_digest(schedule: CacheSchedule) -> str:
    """sha256 of the branch names and then the rows, each as a line of ASCII."""
    lines = "".join(f"{line}\n" for line in (*schedule.branches, *_row_texts(schedule)))
    return "sha256:" + hashlib.sha256(lines.encode("ascii")).hexdigest()


def to_smoothcache(schedule: CacheSchedule) -> dict[str, list[int]]:
    """{branch: [1 compute | 0 reuse, one per evaluation]}."""
    columns = schedule.compute.T.astype(int).tolist()
    return dict(zip(schedule.branches, columns, strict=True))


def from_smoothcache(
    schedule: dict[str, list[int]] | str | Path, *, blocks: int | None = None, **header: Any
) -> CacheSchedule:
    """A schedule from SmoothCache's dict or JSON file, keyed by branch or, with `blocks`, by type.

    Branches named type-block are put in execution order, by block and then by type as they come.
    """
    if isinstance(schedule, (str, Path)):
        path, schedule = (
            schedule,
            parse_json(read_bounded(schedule, MAX_FILE_BYTES, "SmoothCache schedule")),
        )
        header = {"source": Path(path).name, **header}
    if not isinstance(schedule, dict) or not schedule:
        raise ValueError('a SmoothCache schedule is an object {"attn-0": [1, 0, ...], ...}')
    columns = _spread_types(schedule, blocks)
    steps = _checked_columns(columns)
    names = _execution_order(tuple(columns))
    check_size(steps, len(names))
    compute = np.array([columns[name] for name in names], dtype=np.bool_).T
    return CacheSchedule(compute, names, **header)


def _row_texts(schedule: CacheSchedule) -> list[str]:
    return ["".join("1" if c else "0" for c in row) for row in schedule.compute.tolist()]


def _schedule_of(fields: dict[str, Any]) -> CacheSchedule:
    steps, rows, branches = fields["steps"], fields["rows"], fields["branches"]
    for name in ("rows", "branches"):
        if not isinstance(fields[name], list) or not all(isinstance(v, str) for v in fields[name]):
            raise ValueError(f"{name} is no list of strings")
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
    header = {name: fields[name] for name in HEADER if name in fields}
    schedule = CacheSchedule(compute, tuple(branches), **header)
    if schedule.digest != fields["digest"]:
        raise ValueError(
            f"digest {fields['digest']!r:.80} does not match the rows, whose digest is "
            f"{schedule.digest}; the file was damaged or edited by hand"
        )
    return schedule


def _spread_types(columns: dict[str, list[int]], blocks: int | None) -> dict[str, list[int]]:
    if blocks is None:
        return columns
    check_size(1, blocks * len(columns))
    if any(name.rpartition("-")[2].isdecimal() for name in columns):
        raise ValueError(f"keys are branches already ({next(iter(columns))!r:.40}); drop blocks=")
    return {f"{kind}-{b}": column for b in range(blocks) for kind, column in columns.items()}


def _checked_columns(columns: dict[str, list[int]]) -> int:
    lengths = set()
    for name, column in columns.items():
        if not isinstance(column, list) or not all(c in (0, 1) for c in column):
            raise ValueError(f"{name!r:.40} is no list of 1 (compute) and 0 (reuse)")
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
