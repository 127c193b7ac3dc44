"""SmoothCache's own files are read as SmoothCache reads them."""

from __future__ import annotations

import itertools
import json

import pytest

from l2c_rt.schedule.cache_schedule import CacheSchedule

ATTN, MLP = [1, 0, 1, 0], [1, 1, 0, 0]
FULL = [1, 1, 1, 1]


def columns(schedule):
    """The schedule as {branch: its column}."""
    assert schedule.branches == tuple(
        f"{kind}-{b}" for b in range(schedule.num_branches // 2) for kind in ("attn", "mlp")
    )
    return schedule.to_smoothcache()


@pytest.mark.parametrize(
    ("types", "attn", "mlp"),
    [
        ({"attn": ATTN, "mlp": MLP}, ATTN, MLP),
        ({"mlp": MLP, "attn": ATTN}, ATTN, MLP),
        ({"attn1": ATTN, "ff": MLP}, ATTN, MLP),
        ({"ff": MLP, "attn1": ATTN}, ATTN, MLP),
        ({"attn1": ATTN, "mlp": MLP}, ATTN, MLP),
        ({"attn1": ATTN}, ATTN, FULL),
        ({"attn": ATTN}, ATTN, FULL),
        ({"mlp": MLP}, FULL, MLP),
        ({"ff": MLP}, FULL, MLP),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("by_block", [True, False])
def test_a_type_that_is_not_listed_is_computed(types, attn, mlp, by_block):
    listed = types
    if by_block:
        listed = {f"{kind}-{b}": row for kind, row in types.items() for b in (2, 0, 1)}
    schedule = CacheSchedule.from_smoothcache(listed, blocks=None if by_block else 3)
    assert columns(schedule) == {
        f"{kind}-{b}": row for b in range(3) for kind, row in (("attn", attn), ("mlp", mlp))
    }


def test_any_order_of_the_keys_is_the_same_schedule():
    table = {"attn-0": ATTN, "mlp-0": MLP, "attn-10": MLP, "mlp-2": ATTN}
    expected = CacheSchedule.from_smoothcache(table)
    assert expected.num_branches == 22
    for keys in itertools.permutations(table):
        assert CacheSchedule.from_smoothcache({key: table[key] for key in keys}) == expected


def test_blocks_and_branches_that_are_not_listed_are_computed():
    read = columns(CacheSchedule.from_smoothcache({"attn-0": ATTN, "mlp-2": MLP}))
    assert read == {"attn-0": ATTN, "mlp-0": FULL, "attn-1": FULL, "mlp-1": FULL, "attn-2": FULL,
                    "mlp-2": MLP}  # fmt: skip


def test_other_models_keys_stay_as_they_are():
    table = {"attn1-0": ATTN, "attn2-0": ATTN, "ff-0": MLP}
    assert CacheSchedule.from_smoothcache(table).branches == tuple(table)
    alone = CacheSchedule.from_smoothcache({"attn2-0": ATTN, "attn2-1": MLP})
    assert alone.branches == ("attn2-0", "attn2-1")


@pytest.mark.parametrize(
    ("table", "blocks", "message"),
    [
        ({"attn-0": ATTN, "attn1-0": ATTN}, None, "two keys are one branch"),
        ({"mlp": MLP, "ff": MLP}, 2, "two keys are one branch"),
        ({"attn-00": ATTN, "attn-0": ATTN}, None, "two keys are one branch"),
        ({"attn-9999": ATTN}, None, "20000 branches"),
        ({"attn1": ATTN}, None, r"keys are types \('attn1'\); give blocks="),
    ],
)
def test_keys_that_say_too_much_or_too_little_are_refused(tmp_path, table, blocks, message):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(table))
    with pytest.raises(ValueError, match=rf"s\.json: .*{message}"):
        CacheSchedule.from_smoothcache(path, blocks=blocks)
