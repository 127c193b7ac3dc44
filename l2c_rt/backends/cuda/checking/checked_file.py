"""The file of what was checked, by machine.  Untrusted: it says "checked" and nothing else.

    {"version": 1, "machines": {machine: [digest, ...]}}

A digest stands for a plan at one shape with the configurations of its kernels.  What is missing is
checked again.  Several processes may share the file; see `tuning.cache_file`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import filelock

from l2c_rt.backends.cuda.tuning.machine import kernels_digest
from l2c_rt.backends.tuning.cache_file import LOCK_SECONDS
from l2c_rt.untrusted.atomic_write import write_whole
from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded, require_regular

VERSION = 1
MAX_BYTES = 1 << 20
MOST = 1000
"""Digests kept of a machine, the latest."""

Machines = dict[str, list[str]]


class CheckedShapes:
    """What passed the first-run check on a machine, kept in a file, or with `path` None in memory.

    `notes` says why the file is not used.
    """

    def __init__(self, machine: str, path: Path | None) -> None:
        self._machine, self._path = f"{machine} | all kernels {kernels_digest()}", path
        self._passed: dict[str, None] = {}
        self._is_read = False
        self.notes: list[str] = []

    def passed(self, digest: str) -> bool:
        """Whether this was checked on this machine before."""
        if not self._is_read:
            self._is_read = True
            self._tried(self._read)
        return digest in self._passed

    def remember(self, digest: str) -> None:
        """This was checked and is right."""
        self._passed[digest] = None
        self._tried(self._write)

    def _tried(self, action: Callable[[Path], None]) -> None:
        if self._path is None:
            return
        try:
            action(self._path)
        except (OSError, ValueError, NotImplementedError) as error:
            self.notes.append(f"what was checked is not kept: {error}")
            self._path = None

    def _read(self, path: Path) -> None:
        self._passed |= dict.fromkeys(read_machines(path).get(self._machine, []))

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f"{path.name}.lock"), timeout=LOCK_SECONDS):
            machines = read_machines(path)
            digests = dict.fromkeys(machines.get(self._machine, [])) | self._passed
            machines[self._machine] = list(digests)[-MOST:]
            text = json.dumps({"version": VERSION, "machines": machines}, indent=1) + "\n"
            if len(text) > MAX_BYTES:
                # Other machines', and those of versions long gone, are checked again.
                machines = {self._machine: machines[self._machine]}
                text = json.dumps({"version": VERSION, "machines": machines}, indent=1) + "\n"
            write_whole(path, text.encode())


def read_machines(path: Path) -> Machines:
    """The digests of every machine; none where there is no file.

    Raises: ValueError or OSError for a file that is not one of ours.
    """
    if not path.exists():
        return {}
    require_regular(path)
    if path.stat().st_size == 0:
        # As a write interrupted by a power failure may leave it.
        return {}
    with naming(path):
        content = parse_json(read_bounded(path, MAX_BYTES, "checked shapes"))
        machines = content.get("machines") if isinstance(content, dict) else None
        if not isinstance(machines, dict) or content.get("version") != VERSION:
            raise ValueError(f"no list of version {VERSION}; move it away")
    return {
        name: [digest for digest in digests if isinstance(digest, str) and len(digest) <= 64]
        for name, digests in machines.items()
        if isinstance(digests, list)
    }
