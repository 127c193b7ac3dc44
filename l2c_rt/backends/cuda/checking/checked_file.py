"""The file of what was checked, by machine.  Untrusted: it says "checked" and nothing else.

Its entries are digests; see `tuning.machine_file`.  A digest stands for a plan at one shape with
the configurations of its kernels.  What is missing is checked again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from l2c_rt.backends.cuda.tuning.machine import kernels_digest
from l2c_rt.backends.tuning.machine_file import Entries, read_machines, write_machine

MOST = 1000
"""Digests kept of a machine, the latest."""


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
        except (OSError, ValueError) as error:
            self.notes.append(f"what was checked is not kept: {error}")
            self._path = None

    def _read(self, path: Path) -> None:
        self._passed |= _digests(read_machines(path).get(self._machine, []))

    def _write(self, path: Path) -> None:
        passed = self._passed
        write_machine(path, self._machine, lambda entries: list(_digests(entries) | passed)[-MOST:])


def _digests(entries: Entries) -> dict[str, None]:
    return dict.fromkeys(
        digest for digest in entries if isinstance(digest, str) and len(digest) <= 64
    )
