"""Schedule files: ours and SmoothCache's, good and bad."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from strategies import schedules

from l2c_rt.schedule import files
from l2c_rt.schedule.cache_schedule import CacheSchedule

SMALL = np.array([[1, 1, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 0, 1]], bool)


@given(schedule=schedules())
def test_a_saved_schedule_loads_as_it_was(schedule, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "schedule.json"
    schedule.save(path)
    loaded = CacheSchedule.load(path)
    assert loaded == schedule
    for field in ("family", "sampler", "calls_per_step", "threshold", "source", "timesteps",
                  "fingerprint"):  # fmt: skip
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


# A sound file, but of a schedule that cannot be.
REUSING_AT_ONCE = {
    "rows": ["01", "11"],
    "branches": ["a", "b"],
    "steps": 2,
    "digest": files.digest(np.array([[0, 1], [1, 1]]), ("a", "b")),
}


def broken(tmp_path, **changes):
    path = tmp_path / "broken.json"
    CacheSchedule(SMALL).save(path)
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))
    return path


def test_a_file_that_says_lanes_is_read(tmp_path):
    path = broken(tmp_path, calls_per_step=..., lanes=2)
    assert CacheSchedule.load(path).calls_per_step == 2


def test_the_header_is_not_part_of_the_digest():
    plain, other = CacheSchedule(SMALL), CacheSchedule(SMALL, calls_per_step=2, source="x")
    assert plain.digest == other.digest != CacheSchedule(SMALL, tuple("abcd")).digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "else"}, "not a schedule"),
        ({"version": 2}, "version 2, this l2c_rt reads version 1; update"),
        ({"version": True}, "version True"),
        ({"digest": "sha256:0"}, "does not match the rows"),
        ({"rows": ["1111", "0110", "1111", "0100", "1001"]}, "damaged or edited by hand"),
        ({"rows": ["1111"]}, "says 5 steps, the file has 1 rows"),
        ({"rows": ["1111"] * 4 + ["11"]}, "row 4 is '11', wanted 4 characters"),
        ({"rows": ["1111"] * 4 + ["1121"]}, "row 4 is '1121'"),
        (REUSING_AT_ONCE, "step 0 reuses branch 0"),
        ({"rows": [[1, 1, 1, 1]] * 5}, "rows is not a list of strings"),
        ({"rows": "11111"}, "rows is not a list of strings"),
        ({"branches": ["a"]}, "row 0 is"),
        ({"branches": {"a": 1}}, "branches is not a list of strings"),
        ({"digest": ...}, "missing keys: 'digest'"),
        ({"extra": 1}, "unknown keys: 'extra'"),
        ({"lanes": 1}, "unknown keys: 'lanes'"),
        ({"timesteps": 5}, "timesteps is 5"),
        ({"calls_per_step": "1"}, "calls_per_step is '1'"),
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
def test_a_file_that_is_not_a_schedule_is_rejected(tmp_path, content, message):
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
        ({"attn-0": [1, 2]}, None, "'attn-0' is not a list of 1"),
        ({"attn-0": "10"}, None, "'attn-0' is not a list of 1"),
        ({"attn-0": [1, 0], "mlp-0": [1]}, None, r"different numbers of steps: \[1, 2\]"),
        ({"attn-0": [0, 1]}, None, "step 0 reuses branch 0"),
        ({"attn-0": []}, None, "0 steps"),
    ],
)
def test_a_bad_smoothcache_schedule_is_rejected(columns, blocks, message):
    with pytest.raises(ValueError, match=message):
        CacheSchedule.from_smoothcache(columns, blocks=blocks)


def test_a_bad_smoothcache_file_is_rejected_with_the_file_named(tmp_path):
    path = tmp_path / "smooth.json"
    path.write_text('{"attn-0": [0, 1]}')
    with pytest.raises(ValueError, match=r"smooth\.json: step 0 reuses branch 0"):
        CacheSchedule.from_smoothcache(path)
    path.write_text('{"attn-0": 1}')
    with pytest.raises(ValueError, match=r"smooth\.json: 'attn-0' is not a list"):
        CacheSchedule.from_smoothcache(path)
