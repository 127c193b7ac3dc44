"""Who makes which shard, and which folders are refused."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from l2c_rt.serving.shard_folder import ShardFolder, ShardRanges, rank_and_world

OPTIONS = {"seed": 0}


def folder(path: Path, options: dict[str, int] = OPTIONS, count: int = 10) -> ShardFolder:
    return ShardFolder(path, ShardRanges(count, 4), options)


def make(shards: ShardFolder, shard: int) -> None:
    content = save({"seeds": np.arange(3)}, metadata=shards.metadata(shard))
    shards.write(shard, content)


def test_the_ranges_of_shards_hold_every_sample_once() -> None:
    for count in range(1, 14):
        ranges = ShardRanges(count, 4)
        samples = [i for k in range(len(ranges)) for i in ranges.samples(k)]
        assert samples == list(range(count))


def test_a_shard_is_claimed_by_one_at_a_time_and_by_others_once_that_one_has_left_it(
    tmp_path: Path,
) -> None:
    first, second = folder(tmp_path), folder(tmp_path)
    mine, theirs = first.claims(0, 2), second.claims(1, 2)
    assert next(mine) == 0
    assert next(theirs) == 1
    # 1 was not written, so it is open again; 0 is still locked.
    assert next(theirs) == 2
    mine.close()
    assert list(folder(tmp_path).claims(0, 2)) == [0, 1]
    make(first, 0)
    theirs.close()
    assert list(folder(tmp_path).claims(0, 1)) == [1, 2]


def test_a_shard_that_another_has_made_before_the_lock_came_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, lock = folder(tmp_path), ShardFolder._locked

    def late(self: ShardFolder, shard: int) -> AbstractContextManager[bool]:
        make(shards, shard)
        return lock(self, shard)

    monkeypatch.setattr(ShardFolder, "_locked", late)
    assert list(shards.claims(0, 1)) == []
    assert shards.finished() == 3


def test_what_killed_processes_left_goes_once_all_is_there(tmp_path: Path) -> None:
    shards = folder(tmp_path)
    (tmp_path / ".l2c-rt-0.tmp").write_bytes(b"half")
    for shard in shards.claims(0, 1):
        assert shards.finished() == shard
        make(shards, shard)
    assert shards.finished() == 3
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["manifest.json", *(f"shard-00000{k}.safetensors" for k in range(3))]
    assert list(folder(tmp_path).claims(0, 1)) == []


def test_a_folder_of_other_options_is_refused_with_both_values(tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(ValueError, match=r"have seed 0, now 1; give another folder, or the opt"):
        folder(tmp_path, {"seed": 1})
    with pytest.raises(ValueError, match=r"count 10, now 9"):
        folder(tmp_path, count=9)


def test_a_folder_of_something_else_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("text")
    with pytest.raises(ValueError, match=r"holds thesis.txt, so it is no folder of shards"):
        folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_a_shard_of_another_set_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    shards, others = folder(tmp_path / "a"), folder(tmp_path / "b", {"seed": 1})
    content = save({"seeds": np.arange(3)}, metadata=others.metadata(0))
    shards.write(0, content)
    with pytest.raises(ValueError, match=r"shard-000000.safetensors: a shard of another set"):
        list(shards.claims(0, 1))


def test_rank_and_world_come_from_torchrun() -> None:
    assert rank_and_world({}) == (0, 1)
    assert rank_and_world({"RANK": "3", "WORLD_SIZE": "8"}) == (3, 8)
    for wrong in ({"RANK": "8", "WORLD_SIZE": "8"}, {"RANK": "x", "WORLD_SIZE": "8"}):
        with pytest.raises(ValueError, match=r"wanted a rank from 0"):
            rank_and_world(wrong)
