"""Problems and choices as JSON: each survives it, and nothing else becomes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tuning_bench import ADDMM, FC1, HEADS, PROJ, entry, never, tuner, write_entries

from l2c_rt.backends.cuda.tuning.candidates import attention_candidates, linear_candidates
from l2c_rt.backends.tuning.problems import (
    AttentionConfig,
    AttentionProblem,
    LinearConfig,
    LinearProblem,
)


@pytest.mark.parametrize(
    ("kind", "tile", "splits"),
    [
        ("addmm", [64, 64, 64, 4, 4, 8], 1),
        ("addmm", None, 2),
        ("triton", None, 1),
        ("triton", [64, 64, 64, 4, 4], 1),
        ("triton", [64, 64, 64, 4, 4, 8, 1], 1),
        ("triton", [64, 64, 64, 4, 4, 0], 1),
        ("triton", [64, 64, 64, 4, True, 8], 1),
        ("triton", {"0": 64}, 1),
        ("triton", [64, 64, 64, 4, 4, 8], 2),
        ("split", [64, 64, 64, 4, 4, 8], 1),
        ("split", [64, 64, 64, 4, 4, 8], 17),
        ("cudnn", None, 1),
        (["addmm"], None, 1),
        (None, None, 1),
    ],
)
def test_a_choice_that_is_none_is_not_made(kind: Any, tile: Any, splits: Any) -> None:
    given = {"kind": kind, "tile": tile, "splits": splits}
    assert LinearConfig.from_json(given) is None


@pytest.mark.parametrize(
    ("kind", "tile"),
    [
        ("cudnn", [64, 64, 4, 2, 255]),
        ("triton", None),
        ("triton", [64, 64, 4, 2]),
        ("triton", [64, 64, 4, 2, 255, 1]),
        ("triton", [64, 64, 4, 2, 1 << 50]),
        ("split", [64, 64, 4, 2, 255]),
        (["cudnn"], None),
    ],
)
def test_an_attention_choice_that_is_none_is_not_made(kind: Any, tile: Any) -> None:
    assert AttentionConfig.from_json({"kind": kind, "tile": tile}) is None


def test_json_that_is_no_object_is_no_choice_and_no_problem() -> None:
    for kind in (LinearConfig, AttentionConfig, LinearProblem, AttentionProblem):
        for got in (None, 1, "addmm", [], {}, [["kind", "addmm"]]):
            assert kind.from_json(got) is None


@pytest.mark.parametrize("changed", [{"heads": 0}, {"dtype": "int8"}, {"batch": "2"}, {"more": 1}])
def test_an_attention_problem_that_is_none_is_ignored(changed: dict[str, Any]) -> None:
    assert AttentionProblem.from_json(HEADS.to_json() | changed) is None


@pytest.mark.parametrize(
    "changed",
    [{"rows": 0}, {"rows": True}, {"rows": 512.0}, {"bias": 1}, {"gelu": "relu"}, {"gelu": 0},
     {"dtype": "int8"}, {"dtype": ["bfloat16"]}, {"splittable": None}, {"more": 1}],
)  # fmt: skip
def test_a_problem_that_is_none_is_ignored(changed: dict[str, Any]) -> None:
    assert LinearProblem.from_json(PROJ.to_json()) == PROJ
    assert LinearProblem.from_json(PROJ.to_json() | changed) is None


@pytest.mark.parametrize(
    "problem",
    [PROJ, FC1, HEADS, LinearProblem(1, 8, 8, False, "none", "float32", False)],
)
def test_every_candidate_survives_its_json(problem: LinearProblem | AttentionProblem) -> None:
    text = json.loads(json.dumps(problem.to_json()))
    if isinstance(problem, LinearProblem):
        assert LinearProblem.from_json(text) == problem
        assert AttentionProblem.from_json(text) is None
        for choice in linear_candidates(problem):
            assert LinearConfig.from_json(json.loads(json.dumps(choice.to_json()))) == choice
    else:
        assert AttentionProblem.from_json(text) == problem
        assert LinearProblem.from_json(text) is None
        for mixed in attention_candidates(problem):
            assert AttentionConfig.from_json(json.loads(json.dumps(mixed.to_json()))) == mixed


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "os.system"},
        {"kind": ["split"]},
        {"kind": "addmm"},
        {"kind": "triton"},
        {"tile": None},
        {"tile": [64, 128, 64, 4, 4]},
        {"tile": [64, 128, 64, 4, 4, 8, 1]},
        {"tile": [64, 128, 64, 4, 4, -8]},
        {"tile": [64, 128, 64, 4, 4.0, 8]},
        {"tile": [64, 128, 64, 4, True, 8]},
        {"tile": "64x128"},
        {"tile": [1 << 20, 128, 64, 4, 4, 8]},
        {"splits": 1},
        {"splits": 5},
        {"splits": 10**9},
        {"splits": "2"},
        {"more": 1},
    ],
)
def test_an_entry_that_is_no_candidate_is_ignored(changed: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    write_entries(path, [entry(**changed)])
    assert tuner(None, path).linear(PROJ, never) == ADDMM
