"""A file is written whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from l2c_rt.untrusted import atomic_write
from l2c_rt.untrusted.atomic_write import require_writable, write_whole


def alone(path: Path) -> bool:
    """Whether the folder of a file holds nothing else."""
    return list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"\x00\xff", "text \u00e9\n", b"", b"x" * (1 << 20)], ids=len)
def test_a_file_holds_what_was_written(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "file"
    for _ in range(2):
        write_whole(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert alone(path)


def test_a_new_file_has_the_mode_of_any_new_file_and_an_old_one_keeps_its_own(
    tmp_path: Path,
) -> None:
    path, plain = tmp_path / "file", tmp_path / "plain"
    plain.write_bytes(b"")
    write_whole(path, b"new")
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    write_whole(path, b"again")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    link.symlink_to(target)
    for content in (b"new", b"again"):
        write_whole(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content
    assert alone(target)


def test_what_is_not_a_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        before = path.stat().st_mode
        with pytest.raises(ValueError, match="not a regular file"):
            write_whole(path, b"x")
        assert path.stat().st_mode == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, call: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    path = tmp_path / "file"
    write_whole(path, b"old")
    monkeypatch.setattr(atomic_write.os, call, fail)
    with pytest.raises(type(error)) as raised:
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert alone(path)
    if isinstance(error, OSError):
        assert str(raised.value) == f"[Errno 28] No space left on device: '{path}'"


def test_a_write_that_cannot_begin_names_the_file_that_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        write_whole(tmp_path / "absent" / "file", b"x")
    assert raised.value.filename == str(tmp_path / "absent" / "file")


def test_a_write_protected_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o444)
    # As for a user that is not root, who may write everywhere.
    monkeypatch.setattr(atomic_write.os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="file"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"


def test_what_can_be_written_can_be_asked_before_and_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "file"
    require_writable(path)
    assert not list(tmp_path.iterdir())
    write_whole(path, b"old")
    require_writable(path)
    assert path.read_bytes() == b"old"
    assert alone(path)
    with pytest.raises(OSError, match="absent"):
        require_writable(tmp_path / "absent" / "file")
    with pytest.raises(OSError, match="too long"):
        require_writable(tmp_path / ("a" * 300))
    with pytest.raises(ValueError, match="not a regular file"):
        require_writable(tmp_path)


SIZE = 200_000
WRITER = """
import itertools, sys
from l2c_rt.untrusted.atomic_write import require_writable, write_whole
for k in itertools.count():
    write_whole(sys.argv[1], bytes([k % 256]) * {size})
    print(k, flush=True)
"""


def test_a_killed_writer_leaves_one_whole_file_or_the_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for attempt in range(4):
        command = [sys.executable, "-c", WRITER.format(size=SIZE), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.013 * (attempt + 1))
            process.send_signal(signal.SIGKILL)
        content = path.read_bytes()
        assert content == content[:1] * SIZE


def test_a_reader_beside_a_writer_never_sees_half_a_file(tmp_path: Path) -> None:
    path, done = tmp_path / "file", threading.Event()
    write_whole(path, b"\x00" * SIZE)

    def write() -> None:
        for k in range(60):
            write_whole(path, bytes([k]) * SIZE)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        content = path.read_bytes()
        assert content == content[:1] * SIZE
        seen.add(content[0])
    writer.join()
    assert len(seen) > 1


def test_writers_beside_each_other_leave_one_of_their_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    threads = [
        threading.Thread(target=write_whole, args=(path, bytes([k]) * SIZE)) for k in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = path.read_bytes()
    assert content == content[:1] * SIZE
    assert alone(path)
