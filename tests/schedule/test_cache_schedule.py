from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from strategies import schedules

from l2c_rt.schedule.cache_schedule import CacheSchedule, default_branches

SMALL = np.array([[1, 1, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 0, 1]], bool)


def test_branches_are_named_as_smoothcache_names_them():
    assert CacheSchedule(SMALL).branches == ("attn-0", "mlp-0", "attn-1", "mlp-1")
    assert default_branches(2) == ("attn-0", "mlp-0")


def test_counts_and_shares():
    schedule = CacheSchedule(SMALL)
    assert (schedule.steps, schedule.num_branches) == (5, 4)
    assert schedule.reuse_share == pytest.approx(8 / 20)


def test_a_row_is_hashable_and_bounded():
    schedule = CacheSchedule(SMALL)
    assert schedule.row(1) == (False, True, False, False)
    assert all(type(c) is bool for c in schedule.row(1))
    for step in (-1, 5):
        with pytest.raises(ValueError, match=rf"step {step} is outside 0\.\.4"):
            schedule.row(step)


def test_distinct_rows_come_in_order_of_first_use():
    rows = CacheSchedule(SMALL).distinct_rows()
    assert rows == ((True,) * 4, (False, True, False, False), (True, False, False, True))


def test_equality_and_hash_are_by_what_is_computed_and_by_name():
    schedule = CacheSchedule(SMALL)
    assert schedule == CacheSchedule(SMALL.astype(int), source="elsewhere", threshold=0.5)
    assert hash(schedule) == hash(CacheSchedule(SMALL, lanes=2))
    assert schedule != replace(schedule, branches=("a", "b", "c", "d"))
    assert schedule != CacheSchedule(SMALL[:4])
    assert schedule != "schedule"
    assert len({schedule, CacheSchedule(SMALL)}) == 1


def test_the_schedule_owns_a_read_only_copy():
    mine = SMALL.copy()
    schedule = CacheSchedule(mine)
    mine[1] = True
    assert schedule == CacheSchedule(SMALL)
    with pytest.raises(ValueError, match="read-only"):
        schedule.compute[1, 1] = False
    with pytest.raises(FrozenInstanceError):
        schedule.lanes = 2


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_is_equal_and_read_only_too(duplicate):
    schedule = CacheSchedule(SMALL, tuple("abcd"), source="x", timesteps=(5, 4, 3, 2, 1))
    other = duplicate(schedule)
    assert other == schedule
    assert (other.source, other.timesteps) == ("x", (5.0, 4.0, 3.0, 2.0, 1.0))
    assert not other.compute.flags.writeable


def test_blocks_become_attn_and_mlp_columns():
    blocks = np.ones((3, 2, 2), bool)
    blocks[1, 1, 0] = False
    schedule = CacheSchedule.from_blocks(blocks, family="dit")
    assert schedule.branches[np.argmin(schedule.compute[1])] == "attn-1"
    assert schedule.family == "dit"
    with pytest.raises(ValueError, match=r"\(3, 4\), wanted \[steps, blocks, 2\]"):
        CacheSchedule.from_blocks(np.ones((3, 4), bool))


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (np.ones((3, 2, 2), bool), r"shape \(3, 2, 2\), wanted \[steps, branches\].*from_blocks"),
        (np.ones((0, 4), bool), r"0 steps, wanted 1\.\.10000"),
        (np.ones((4, 0), bool), r"0 branches, wanted 1\.\.10000"),
        (np.ones((10_001, 2), bool), "10001 steps"),
        (np.ones((1, 10_002), bool), "10002 branches"),
        (np.broadcast_to(np.True_, (9_000, 9_000)), "more than 4194304 cells"),
        (np.full((2, 2), np.nan), "dtype float64 with 4 NaN, wanted bool"),
        (np.ones((2, 2), np.float32), "dtype float32, wanted bool.*scores > threshold"),
        (np.array([["1", "0"]]), "wanted bool"),
        (np.array([[1, 1], [1, 2]]), r"compute\[1, 1\] is 2, wanted 1 \(compute\) or 0"),
        (np.array([[1, 1], [-1, 0]]), r"compute\[1, 0\] is -1"),
        (~np.eye(2, dtype=bool), r"step 0 reuses branch 0 \(attn-0\).*set compute\[0, 0\] = True"),
        (np.ones((2, 3), bool), "3 branches are no attn and mlp pairs; name them"),
    ],
)
def test_bad_compute_is_rejected_by_name(compute, message):
    with pytest.raises(ValueError, match=message):
        CacheSchedule(compute)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"branches": ("a", "b", "c")}, "3 branch names for 4 columns"),
        ({"branches": ("a", "b", "c", "b")}, "'b' occurs twice"),
        ({"branches": ("a", "b", "c", "")}, "branch name ''"),
        ({"branches": ("a", "b", "c", "d e")}, "'d e' is empty"),
        ({"branches": ("a", "b", "c", "d\x1b[2J")}, "plain ASCII"),
        ({"branches": ("a", "b", "c", "d" * 101)}, "over 100"),
        ({"branches": "abcd"}, "wanted a tuple of 4 names"),
        ({"branches": (1, 2, 3, 4)}, "wanted a tuple of 4 names"),
        ({"family": None}, "family is None"),
        ({"source": "x\n"}, "source is .* printable"),
        ({"source": "x" * 1001}, "at most 1000"),
        ({"lanes": 0}, "lanes is 0"),
        ({"lanes": 1.5}, "lanes is 1.5"),
        ({"lanes": True}, "lanes is True"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": "0.1"}, "threshold is '0.1'"),
        ({"timesteps": (1.0,)}, "1 timesteps for 5 steps"),
        ({"timesteps": (5, 4, 3, float("nan"), 1)}, r"timesteps\[3\] is nan"),
        ({"timesteps": (5, 4, 3, 10**400, 1)}, r"timesteps\[3\]"),
        ({"timesteps": (5, 4, "3", 2, 1)}, r"timesteps\[2\] is '3'"),
        ({"timesteps": 7}, "timesteps is 7"),
    ],
)
def test_bad_fields_are_rejected_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        CacheSchedule(SMALL, **fields)


def test_the_map_of_50_by_56_fits_100_columns():
    compute = np.random.default_rng(0).random((50, 56)) > 0.3
    compute[0] = True
    schedule = CacheSchedule(compute, family="dit", sampler="ddim", threshold=0.1, source="a file")
    lines = str(schedule).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) == 2 + 1 + 50 + 1
    for step, line in enumerate(lines[3:-1]):
        marks = "".join("#" if c else "." for c in compute[step])
        assert line.split() == [str(step), marks, *line.split()[2:]]
        assert line.endswith(f"{compute[step].sum()}/56")
    assert lines[-1].endswith(f"{compute.sum()}/2800")
    assert f"{len(schedule.distinct_rows())} distinct rows" in lines[-1]


@pytest.mark.parametrize("branches", [70, 72, 74, 144, 146, 1_000])
def test_the_map_of_50_steps_fits_100_columns_for_any_depth(branches):
    lines = str(CacheSchedule(np.ones((50, branches), bool))).splitlines()
    assert max(map(len, lines[:-1])) <= 100
    assert len({line.index("%") for line in lines[2:]}) == 1


def test_the_map_folds_many_branches_into_100_columns():
    compute = np.ones((3, 200), bool)
    compute[1, :7] = False
    lines = str(CacheSchedule(compute)).splitlines()
    assert "3 branches each" in lines[0]
    assert lines[3].split()[1].startswith("..+#")
    assert max(map(len, lines)) <= 100


def test_the_map_of_one_cell():
    lines = str(CacheSchedule(np.ones((1, 1), bool), ("a",))).splitlines()
    assert lines[2].split() == ["0", "#", "100.0", "%", "1/1"]


def test_repr_is_short():
    assert repr(CacheSchedule(SMALL)) == "<CacheSchedule 5 steps x 4 branches, 40.0 % reused>"


@given(schedule=schedules())
def test_a_saved_schedule_loads_as_it_was(schedule, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "schedule.json"
    schedule.save(path)
    loaded = CacheSchedule.load(path)
    assert loaded == schedule
    for field in ("family", "sampler", "lanes", "threshold", "source", "timesteps"):
        assert getattr(loaded, field) == getattr(schedule, field)


def test_the_largest_schedule_can_be_saved_and_loaded(tmp_path):
    names = tuple('"' * 93 + f"{k:07}" for k in range(10_000))
    schedule = CacheSchedule(np.ones((419, 10_000), bool), names, timesteps=(1 / 3,) * 419)
    schedule.save(tmp_path / "large.json")
    assert CacheSchedule.load(tmp_path / "large.json") == schedule


def test_the_file_has_one_readable_line_per_evaluation(tmp_path):
    CacheSchedule(SMALL, source="by hand").save(tmp_path / "s.json")
    lines = (tmp_path / "s.json").read_text().splitlines()
    assert '    "0100",' in lines
    assert json.loads("\n".join(lines))["rows"] == ["1111", "0100", "1111", "0100", "1001"]


def test_the_digest_is_sha256_of_names_and_rows_as_lines():
    import hashlib

    text = "a\nb\n11\n01\n"
    schedule = CacheSchedule(np.array([[1, 1], [0, 1]]), ("a", "b"), source="any")
    assert schedule.digest == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def broken(tmp_path, **changes):
    path = tmp_path / "broken.json"
    CacheSchedule(SMALL).save(path)
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "else"}, "no schedule"),
        ({"version": 2}, "version 2, this l2c_rt reads version 1; update"),
        ({"version": True}, "version True"),
        ({"digest": "sha256:0"}, "does not match the rows"),
        ({"rows": ["1111", "0110", "1111", "0100", "1001"]}, "damaged or edited by hand"),
        ({"rows": ["1111"]}, "says 5 steps, the file has 1 rows"),
        ({"rows": ["1111"] * 4 + ["11"]}, "row 4 is '11', wanted 4 characters"),
        ({"rows": ["1111"] * 4 + ["1121"]}, "row 4 is '1121'"),
        ({"rows": ["0111"] + ["1111"] * 4}, "step 0 reuses branch 0"),
        ({"rows": [[1, 1, 1, 1]] * 5}, "rows is no list of strings"),
        ({"rows": "11111"}, "rows is no list of strings"),
        ({"branches": ["a"]}, "row 0 is"),
        ({"branches": {"a": 1}}, "branches is no list of strings"),
        ({"digest": ...}, "missing keys: 'digest'"),
        ({"extra": 1}, "unknown keys: 'extra'"),
        ({"timesteps": 5}, "timesteps is 5"),
        ({"lanes": "1"}, "lanes is '1'"),
    ],
)
def test_a_changed_file_is_rejected_by_name(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        CacheSchedule.load(broken(tmp_path, **changes))
    assert "broken.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\xff\xfe", "decode"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"format": NaN}', "holds NaN"),
        (b"[]", "wanted a JSON object"),
        (b'{"steps": ' + b"9" * 5_000 + b"}", "digits"),
    ],
)
def test_what_is_no_schedule_is_rejected(tmp_path, content, message):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        CacheSchedule.load(path)


def test_a_huge_file_is_rejected_before_it_is_read(tmp_path):
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"1099511627776 bytes, wanted 1\.\.8388608"):
        CacheSchedule.load(path)


@given(schedule=schedules())
def test_smoothcache_and_back_is_the_same(schedule):
    columns = schedule.to_smoothcache()
    assert list(columns) == list(schedule.branches)
    assert CacheSchedule.from_smoothcache(columns) == schedule


def test_smoothcache_columns_come_in_execution_order(tmp_path):
    columns = {"attn-0": [1, 0], "attn-1": [1, 1], "mlp-0": [1, 0], "mlp-1": [1, 0]}
    schedule = CacheSchedule.from_smoothcache(columns)
    assert schedule.branches == ("attn-0", "mlp-0", "attn-1", "mlp-1")
    assert schedule.row(1) == (False, False, True, False)
    (tmp_path / "smooth.json").write_text(json.dumps(columns))
    loaded = CacheSchedule.from_smoothcache(tmp_path / "smooth.json", family="dit")
    assert (loaded, loaded.source, loaded.family) == (schedule, "smooth.json", "dit")


def test_smoothcache_types_are_spread_over_the_blocks():
    schedule = CacheSchedule.from_smoothcache({"attn": [1, 0, 1], "mlp": [1, 1, 0]}, blocks=2)
    assert schedule.branches == ("attn-0", "mlp-0", "attn-1", "mlp-1")
    assert schedule.row(1) == (False, True, False, True)


@pytest.mark.parametrize(
    ("columns", "blocks", "message"),
    [
        ({}, None, "is an object"),
        ([1], None, "is an object"),
        ({"attn": [1, 0]}, None, r"keys are types \('attn'\); give blocks="),
        ({"attn-0": [1, 0]}, 2, "keys are branches already"),
        ({"attn": [1, 0]}, 20_000, "20000 branches"),
        ({"attn-0": [1, 2]}, None, "'attn-0' is no list of 1"),
        ({"attn-0": "10"}, None, "'attn-0' is no list of 1"),
        ({"attn-0": [1, 0], "mlp-0": [1]}, None, r"different numbers of steps: \[1, 2\]"),
        ({"attn-0": [0, 1]}, None, "step 0 reuses branch 0"),
        ({"attn-0": []}, None, "0 steps"),
    ],
)
def test_a_bad_smoothcache_schedule_is_rejected(columns, blocks, message):
    with pytest.raises(ValueError, match=message):
        CacheSchedule.from_smoothcache(columns, blocks=blocks)
