"""A checkpoint is taken up by the run that wrote it, and by no other; each field is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy_learning import learn_briefly
from toys import toy_dit

NAN = float("nan")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run that ended."""
    folder = tmp_path_factory.mktemp("ended")
    learn_briefly(toy_dit(depth=1), out=folder)
    return folder / "checkpoint.safetensors"


@pytest.fixture
def run(ended: Path, tmp_path: Path) -> Path:
    """A copy of it in a folder of its own."""
    (tmp_path / ended.name).write_bytes(ended.read_bytes())
    return tmp_path / ended.name


def rewrite(
    path: Path, tensors: dict[str, Any], state: dict[str, Any], header: dict[str, str] | None = None
) -> None:
    """The file with tensors, fields of its state, or texts of its header changed."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    fields = json.loads(metadata["state"]) | state
    metadata |= {"state": json.dumps(fields).replace('"1e999"', "1e999")}
    metadata |= header or {}
    all_tensors = load_file(path) | tensors
    kept = {name: value for name, value in all_tensors.items() if value is not None}
    save_file(kept, path, metadata=metadata)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"iteration": "1e999"}, "iteration is inf, wanted 0..4"),
        ({"iteration": -5}, "iteration is -5"),
        ({"iteration": 10**6}, "iteration is 1000000, wanted 0..4"),
        ({"iteration": True}, "iteration is True"),
        ({"iteration": 1.0}, "iteration is 1.0"),
        ({"lam": None}, "lam is None, wanted a finite number"),
        ({"seconds": "1e999"}, "seconds is inf"),
        ({"error": 10**400}, "int too large|error is"),
        ({"rows": [0]}, "rows are"),
        ({"rows": [[[]]] * 9}, "rows are"),
        ({"snapshots": [9, 9]}, "snapshots are"),
        ({"snapshots": {"a": 1}}, "snapshots are"),
        ({"snapshots": [0]}, "snapshots is F32"),
    ],
    ids=str,
)
def test_a_state_that_the_run_cannot_have_is_refused(run: Path, state, message) -> None:
    rewrite(run, {}, state)
    with pytest.raises(ValueError, match=message) as raised:
        learn_briefly(toy_dit(depth=1), out=run.parent, resume=True)
    assert str(raised.value).startswith(f"{run}: ")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"steps": torch.zeros(1)}, r"steps is F32 \(1,\), wanted F32"),
        ({"met": torch.zeros(2)}, "met is F32"),
        ({"fall": None}, "holds .*, wanted"),
        ({"more": torch.zeros(2)}, "holds .*, wanted"),
        (
            {"steps": torch.tensor([-1.0, 1.0, 1.0])},
            "steps holds numbers that are not finite, or neg",
        ),
    ],
    ids=str,
)
def test_tensors_of_another_run_are_refused(run: Path, tensors, message) -> None:
    rewrite(run, tensors, {})
    with pytest.raises(ValueError, match=message):
        learn_briefly(toy_dit(depth=1), out=run.parent, resume=True)


@pytest.mark.parametrize("name", ["theta", "first", "second", "fall", "rest", "total"])
def test_numbers_that_are_not_finite_are_refused(run: Path, name: str) -> None:
    rewrite(run, {name: load_file(run)[name] * NAN}, {})
    with pytest.raises(ValueError, match=f"{name} holds numbers that are not finite"):
        learn_briefly(toy_dit(depth=1), out=run.parent, resume=True)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"options": "[]"}, "its options are a list"),
        ({"options": "[" * 100_000}, "nested too deeply"),
        ({"options": '{"seed": ' + "[" * 900 + "]" * 900 + "}"}, "nested too deeply|begun with"),
        ({"state": "3"}, "its state is a int"),
        ({"model": "x"}, "fingerprint is 'x'"),
        ({"version": "1"}, "version '1', wanted l2c_rt.learning 2"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_header_of_another_kind_is_refused(run: Path, header, message) -> None:
    rewrite(run, {}, {}, header)
    with pytest.raises(ValueError, match=message):
        learn_briefly(toy_dit(depth=1), out=run.parent, resume=True)


def test_another_models_checkpoint_of_the_same_shapes_is_refused(run: Path) -> None:
    model = toy_dit(depth=1)
    with torch.no_grad():
        model.blocks[0].attn.qkv.bias.add_(1.0)
    before = run.read_bytes()
    with pytest.raises(ValueError, match="begun with a model of other weights.*resume=False"):
        learn_briefly(model, out=run.parent, resume=True)
    assert run.read_bytes() == before
    with pytest.raises(ValueError, match="model of other weights"):
        learn_briefly(toy_dit(depth=1).to(torch.bfloat16), out=run.parent, resume=True)
    begun_anew = learn_briefly(model, out=run.parent)
    assert np.array_equal(begun_anew.logits, learn_briefly(model).logits)


def test_a_checkpoint_that_is_a_folder_or_a_pipe_is_refused(run: Path) -> None:
    import os

    run.unlink()
    for make in (os.mkfifo, Path.mkdir):
        make(run)
        with pytest.raises(ValueError, match="not a regular file"):
            learn_briefly(toy_dit(depth=1), out=run.parent, resume=True)
        run.unlink() if run.is_fifo() else run.rmdir()
