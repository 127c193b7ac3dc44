"""A file of entries by machine, shared by processes.  Untrusted: whoever reads checks its entries.

    {"version": 1, "machines": {machine: [entry, ...]}}

A write replaces the whole file, after merging in what the file holds by then, and holds the lock
beside it meanwhile; readers need no lock.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock

from l2c_rt.untrusted.atomic_write import write_whole
from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded, require_regular

VERSION = 1
MAX_BYTES = 4 << 20
LOCK_SECONDS = 10.0

Entries = list[Any]


def read_machines(path: Path) -> dict[str, Entries]:
    """The entries of every machine; none where there is no file.

    Raises ValueError or OSError for a file that is not one of ours, or is of a newer version.
    """
    if not path.exists():
        return {}
    require_regular(path)
    if path.stat().st_size == 0:
        # As a write interrupted by a power failure may leave it.
        return {}
    with naming(path):
        content = parse_json(read_bounded(path, MAX_BYTES, "entries by machine"))
        version = content.get("version") if isinstance(content, dict) else None
        if type(version) is not int or version != VERSION:
            raise ValueError(f"version is {version!r:.40}, wanted {VERSION}; move it away")
        machines = content.get("machines")
        if not isinstance(machines, dict):
            raise ValueError("no machines in it; move it away")
    return {name: entries for name, entries in machines.items() if isinstance(entries, list)}


def write_machine(path: Path, machine: str, merged: Callable[[Entries], Entries]) -> None:
    """Replace a machine's entries by what `merged` makes of them; other machines' stay.

    Raises ValueError or OSError, with the file as it was, where it cannot be read or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"), timeout=LOCK_SECONDS)
    try:
        with lock:
            machines = read_machines(path)
            entries = merged(machines.get(machine, []))
            text = _text({**machines, machine: entries})
            if len(text) > MAX_BYTES:
                # Other machines' entries, and those of versions long gone, make room first.
                text = _text({machine: entries})
            if len(text) > MAX_BYTES:
                raise ValueError(f"{path}: {len(text)} bytes to write, wanted at most {MAX_BYTES}")
            write_whole(path, text)
    except NotImplementedError as error:
        raise OSError(f"{path}: its file system has no locks") from error


def _text(machines: dict[str, Entries]) -> bytes:
    return (json.dumps({"version": VERSION, "machines": machines}, indent=1) + "\n").encode()
