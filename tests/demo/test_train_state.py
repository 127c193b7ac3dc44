"""The demo's checkpoint is checked before a run is taken up, whatever the file holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from l2c_rt.demo.train_state import TrainSettings, resume, save_checkpoint, start

SETTINGS = TrainSettings(steps=4, seed=0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run of one step."""
    state = start(SETTINGS)
    for parameter in state.optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    state.step, state.seconds, state.losses, state.recent = 1, 0.5, [(1, 0.25)], [0.125]
    path = tmp_path_factory.mktemp("saved") / "c.safetensors"
    save_checkpoint(path, state, SETTINGS)
    return path


def test_what_was_saved_is_taken_up(saved: Path) -> None:
    state = resume(saved, SETTINGS)
    assert (state.step, state.seconds, state.recent) == (1, 0.5, [0.125])
    assert state.losses == [(1, 0.25)]
    assert not torch.equal(state.model.pos_embed + 0, state.model.blocks[0].attn.qkv.weight)
    moments = [state.optimizer.state[p] for p in state.optimizer.param_groups[0]["params"]]
    assert all(float(m["step"]) == 1 and bool((m["exp_avg"] != 0).all()) for m in moments)


def rewritten(saved: Path, folder: Path, header: dict[str, str], **tensors: torch.Tensor) -> Path:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata() | header
    save_file(load_file(saved) | tensors, folder / "c.safetensors", metadata=metadata)
    return folder / "c.safetensors"


STATE = {"step": 1, "seconds": 0.5, "losses": [], "recent": []}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": "x"}, "not a checkpoint of"),
        ({"settings": json.dumps({"steps": 5})}, "was made with .*delete it"),
        ({"settings": "["}, "Expecting value"),
        ({"state": "[]"}, "its state is damaged"),
        ({"state": json.dumps(STATE | {"step": 5})}, "stopped at step 5, wanted 0..4"),
        ({"state": json.dumps(STATE | {"seconds": None})}, "stopped at step 1"),
        ({"state": json.dumps(STATE | {"losses": [[1]]})}, "losses are not numbers"),
        ({"state": json.dumps(STATE | {"losses": {"a": 1}})}, "losses are not lists"),
        ({"state": json.dumps(STATE | {"recent": [10**400]})}, "losses are not numbers"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_header_of_another_run_is_refused_by_name(tmp_path, saved, header, message) -> None:
    path = rewritten(saved, tmp_path, header)
    with pytest.raises(ValueError, match=message) as raised:
        resume(path, SETTINGS)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize("tensor", [torch.ones(3), torch.ones(192, 64, dtype=torch.float64)])
def test_tensors_of_another_run_are_refused(tmp_path, saved, tensor) -> None:
    path = rewritten(saved, tmp_path, {}, **{"model.blocks.0.attn.qkv.weight": tensor})
    with pytest.raises(ValueError, match="its tensors are not this run's"):
        resume(path, SETTINGS)


def test_a_pickle_is_not_opened_as_one(tmp_path: Path) -> None:
    torch.save({"settings": 1}, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match=r"c\.safetensors: damaged safetensors file"):
        resume(tmp_path / "c.safetensors", SETTINGS)
