"""Files that commands are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from toys import toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.policies import Random
from l2c_rt.schedule.cache_schedule import default_branches


@pytest.fixture
def dit_weights(tmp_path: Path) -> Path:
    """A DiT of 3 blocks, with its number of heads in the header."""
    path = tmp_path / "dit.safetensors"
    save_file(toy_dit().state_dict(), path, metadata={"num_heads": "2"})
    return path


@pytest.fixture
def schedule(tmp_path: Path) -> Path:
    """A schedule for that DiT: 6 evaluations, 6 branches, reusing half of the odd ones."""
    made = Random(0.5, seed=0).schedule(6, default_branches(6))
    replace(made, family="dit", sampler="ddim").save(tmp_path / "schedule.json")
    return tmp_path / "schedule.json"


@pytest.fixture
def router(tmp_path: Path) -> Path:
    logits = np.linspace(-4, 4, 6 * 6, dtype=np.float32).reshape(6, 6)
    made = rt.Router(logits, "dit", 6, source="by hand", training='{"seed": 3}')
    made.save(tmp_path / "router.safetensors")
    return tmp_path / "router.safetensors"


@pytest.fixture
def folder(
    tmp_path: Path, dit_weights: Path, schedule: Path, router: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The current folder: good files and bad ones, under the names that tests give commands."""
    (tmp_path / "text.json").write_text("this is text")
    torch.save(toy_uvit().state_dict(), tmp_path / "uvit.pt")
    save_file(toy_dit().state_dict(), tmp_path / "no-heads.safetensors")
    no_null = toy_dit(class_dropout_prob=0.0).state_dict()
    save_file(no_null, tmp_path / "no-null.safetensors", metadata={"num_heads": "2"})
    even = Random(0.5, seed=0).schedule(6, default_branches(8))
    replace(even, family="uvit").save(tmp_path / "even.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path
