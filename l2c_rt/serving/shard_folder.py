"""A set of samples in shards on disk: which process makes which, and what a killed one left."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from l2c_rt.untrusted.atomic_write import write_whole
from l2c_rt.untrusted.bounded_read import naming, open_regular, parse_json, read_bounded
from l2c_rt.untrusted.safetensors_file import SafetensorsFile

MANIFEST = "manifest.json"
LOCKS = ".locks"
MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ShardRanges:
    """`count` samples from number 0 on, `size` in a shard, fewer in the last."""

    count: int
    size: int

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def samples(self, shard: int) -> range:
        """The numbers of the samples in a shard."""
        return range(shard * self.size, min((shard + 1) * self.size, self.count))


class ShardFolder:
    """A folder of shards with a manifest of the options that they were made with.

    Any number of processes may fill it at once: each locks the shard that it makes, and the system
    opens the lock of one that was killed.  A file is written whole or not at all, so that a shard
    that is there is finished.
    Raises ValueError where the folder holds a set of other options, or something else.
    """

    def __init__(self, path: Path, ranges: ShardRanges, options: Mapping[str, Any]) -> None:
        self._path, self.ranges = path, ranges
        content = {
            "format": "l2c_rt.shards", "version": 1, "count": ranges.count,
            "shard_size": ranges.size, **options,
        }  # fmt: skip
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        _refuse_other_files(path)
        (path / LOCKS).mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path / LOCKS / "manifest"):
            if (path / MANIFEST).exists():
                _check_same(path / MANIFEST, content)
            else:
                write_whole(path / MANIFEST, text)

    def claims(self, rank: int, world: int) -> Iterator[int]:
        """The shards that nobody has made or is making, each locked until the next is asked for.

        First those whose number is `rank` modulo `world`, then what others have not come to.
        """
        for shard in sorted(range(len(self.ranges)), key=lambda k: ((k - rank) % world != 0, k)):
            if not self._is_there(shard):
                with self._locked(shard) as locked:
                    # Another process may have made it between the look and the lock.
                    if locked and not self._is_there(shard):
                        yield shard

    def write(self, shard: int, content: bytes) -> None:
        """Write a shard, a safetensors file with `metadata(shard)`."""
        write_whole(self._file(shard), content)

    def metadata(self, shard: int) -> dict[str, str]:
        """What a shard's header must say."""
        samples = self.ranges.samples(shard)
        # One entry: safetensors writes several in any order, and a shard is the same bit for bit.
        return {"shard": f"{self.digest} {samples.start}-{samples.stop - 1}"}

    def finished(self) -> int:
        """The number of shards that are there.  Once all are, what killed processes left goes."""
        there = sum(map(self._is_there, range(len(self.ranges))))
        if there == len(self.ranges):
            # Nobody writes any more, so what is unfinished stays so.
            for file in self._path.glob(".l2c-rt-*.tmp"):
                file.unlink(missing_ok=True)
            shutil.rmtree(self._path / LOCKS, ignore_errors=True)
        return there

    def _file(self, shard: int) -> Path:
        return self._path / f"shard-{shard:06d}.safetensors"

    def _is_there(self, shard: int) -> bool:
        file = self._file(shard)
        if not file.exists():
            return False
        with naming(file), open_regular(file) as opened:
            metadata = SafetensorsFile(opened, os.fstat(opened.fileno()).st_size).metadata
            if dict(metadata) != self.metadata(shard):
                raise ValueError("a shard of another set, or of other samples; delete it")
        return True

    @contextmanager
    def _locked(self, shard: int) -> Iterator[bool]:
        lock = filelock.FileLock(self._path / LOCKS / f"{shard:06d}", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def rank_and_world(environment: Mapping[str, str]) -> tuple[int, int]:
    """RANK and WORLD_SIZE as torchrun sets them; 0 and 1 without.  Raises ValueError for others."""
    try:
        rank, world = (int(environment.get(name, default)) for name, default in
                       (("RANK", "0"), ("WORLD_SIZE", "1")))  # fmt: skip
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise ValueError(
            f"RANK={environment.get('RANK')!r}, WORLD_SIZE={environment.get('WORLD_SIZE')!r} in "
            "the environment; wanted a rank from 0 and below WORLD_SIZE, as torchrun sets them"
        )
    return rank, world


def _refuse_other_files(path: Path) -> None:
    ours = re.compile(rf"\..*|{re.escape(MANIFEST)}|shard-\d+\.safetensors")
    for entry in path.iterdir() if path.exists() else ():
        if not ours.fullmatch(entry.name):
            raise ValueError(f"{path}: holds {entry.name}, so it is no folder of shards; give "
                             "another folder")  # fmt: skip


def _check_same(file: Path, content: Mapping[str, Any]) -> None:
    with naming(file):
        there = parse_json(read_bounded(file, MAX_MANIFEST_BYTES, "manifest"))
        if there == content:
            return
        if not isinstance(there, dict) or there.get("format") != content["format"]:
            raise ValueError("not the manifest of a folder of shards; give another folder")
        keys = [key for key in {**content, **there} if there.get(key) != content.get(key)]
        differing = ", ".join(f"{k} {there.get(k)!r}, now {content.get(k)!r}" for k in keys)
        raise ValueError(
            f"the shards in this folder have {differing}; give another folder, or the options "
            "that they were begun with"
        )
