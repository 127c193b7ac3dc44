"""The only way in which this package writes a file: whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Make `content` (text as UTF-8) the content of a file, in one step.

    Written beside the file, flushed to the disk and renamed over it: whoever reads meanwhile, and
    whatever interrupts it, the file is the old one or the new one. A file that exists keeps its
    mode, and a link stays a link.
    Raises: OSError with the file's name, the old file untouched; ValueError where `path` is a
    folder, pipe or device.
    """
    target = Path(os.path.realpath(path))
    fresh = target.with_name(f".l2c-rt-{secrets.token_hex(8)}.tmp")
    try:
        mode = _mode_to_keep(target)
        try:
            _write_new(fresh, content.encode() if isinstance(content, str) else content, mode)
            os.replace(fresh, target)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    except OSError as error:
        # The name that the caller knows: a full disk names none, and a failed open the new file.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def require_writable(path: str | Path) -> None:
    """Raise now what `write_whole` would raise later; for what comes before long work.

    Whether a folder takes files is not to be read off its mode, so one is made and removed.
    """
    target = Path(os.path.realpath(path))
    fresh = target.with_name(f".l2c-rt-{secrets.token_hex(8)}.tmp")
    _mode_to_keep(target)
    _write_new(fresh, b"", None)
    fresh.unlink()


def _mode_to_keep(target: Path) -> int | None:
    """The mode of the file that is replaced; None where there is none yet."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{target}: not a regular file, so it is not replaced by one")
    if not os.access(target, os.W_OK):
        # A rename would get round the protection.
        raise PermissionError(13, "Permission denied", str(target))
    return stat.S_IMODE(mode)


def _write_new(path: Path, content: bytes, mode: int | None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        file.write(content)
        file.flush()
        # Before the rename, so that a power failure leaves the old file or the new one.
        os.fsync(file.fileno())
    if mode is not None:
        os.chmod(path, mode)
