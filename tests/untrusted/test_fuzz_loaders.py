"""Damaged weights, checkpoints, logs and ceilings: valid objects, or ValueError with the name."""

from __future__ import annotations

import argparse
import copy
import json
import pathlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import Draw, attack, cut, flip, mutate, repeated, safetensors_header
from small_weights import SMALL_DIT, filled, write
from toy_learning import learn_briefly, task_of
from toys import toy_dit

from l2c_rt.demo import train_state
from l2c_rt.learning.checkpoint import load_checkpoint
from l2c_rt.learning.log import COLUMNS, CsvLog
from l2c_rt.learning.state import start
from l2c_rt.measure.ceilings import read_ceilings
from l2c_rt.models import DiT, load_diffusers, load_dit

TINY = SMALL_DIT | {"depth": 1, "hidden_size": 8, "input_size": 4}


def use_weights(path: Path) -> None:
    assert len(load_dit(path, num_heads=2).blocks) == 1


def mostly_headers(good: bytes, count: int) -> list[Any]:
    """Damaged headers, and every fourth file damaged anywhere."""
    half = count // 8
    return [*repeated(count - 2 * half, safetensors_header, good), *repeated(half, flip, good),
            *repeated(half, cut, good)]  # fmt: skip


def test_500_damaged_safetensors_weights(tmp_path: Path) -> None:
    state = filled(DiT, TINY).state_dict()
    good = write(tmp_path / "good.safetensors", state, num_heads="2").read_bytes()
    makes = mostly_headers(good, 500)
    assert attack(tmp_path, "case.safetensors", makes, use_weights) < 500


def test_500_damaged_training_checkpoints(tmp_path: Path) -> None:
    state = filled(DiT, TINY).state_dict()
    arguments = argparse.Namespace(out=pathlib.PurePosixPath("/x"), dtype=torch.bfloat16)
    saved = {"model": state, "ema": {f"module.{k}": v for k, v in state.items()}, "a": arguments}
    good = write(tmp_path / "good.pt", saved).read_bytes()
    assert attack(tmp_path, "case.pt", [*repeated(400, flip, good), *repeated(100, cut, good)],
                  use_weights) < 500  # fmt: skip


def test_400_damaged_states_of_learning(tmp_path: Path) -> None:
    model = toy_dit(depth=1)
    learn_briefly(model, out=tmp_path / "run")
    task = task_of(model, iterations=4, batch_size=4, lam=None, reuse=0.45, lr=None)
    good = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()

    def use(path: Path) -> None:
        state = start(task.rows.values(), task.source.costs, task.options)
        load_checkpoint(path, state, task.options, task.fingerprint)
        assert 0 <= state.iteration <= 4
        assert bool(state.logits.isfinite().all())

    use(tmp_path / "run" / "checkpoint.safetensors")
    assert attack(tmp_path, "case.safetensors", mostly_headers(good, 300) + [
        partial(other_state, good) for _ in range(100)], use) < 400  # fmt: skip


def other_state(good: bytes, draw: Draw) -> bytes:
    """The file with its state or its options changed as JSON, inside a sound header."""
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])
    name = "state" if draw.random() < 0.7 else "options"
    metadata = header["__metadata__"]
    metadata[name] = json.dumps(mutate(draw, json.loads(metadata[name])))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + good[8 + size :]


@pytest.fixture(scope="module")
def training() -> train_state.TrainState:
    settings = train_state.TrainSettings(steps=4, seed=0)
    state = train_state.start(settings)
    for parameter in state.optimizer.param_groups[0]["params"]:
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    state.step, state.recent = 1, [0.5]
    return state


def test_150_damaged_states_of_the_demos_training(
    tmp_path: Path, training: train_state.TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = train_state.TrainSettings(steps=4, seed=0)
    train_state.save_checkpoint(tmp_path / "good", training, settings)
    good = (tmp_path / "good").read_bytes()
    fresh = train_state.start(settings)
    monkeypatch.setattr(train_state, "start", lambda _: copy.copy(fresh))

    def use(path: Path) -> None:
        assert 0 <= train_state.resume(path, settings).step <= 4

    use(tmp_path / "good")
    makes = mostly_headers(good, 80) + [partial(other_settings, good) for _ in range(70)]
    assert attack(tmp_path, "case", makes, use) < 150


def other_settings(good: bytes, draw: Draw) -> bytes:
    return other_state(good.replace(b'"settings"', b'"options" '), draw).replace(
        b'"options"', b'"settings"'
    )


def test_300_damaged_ceilings(tmp_path: Path) -> None:
    good = {"ceilings": {"macs_per_second": 1e12, "bytes_per_second": 10**11}, "other": [1]}

    def use(path: Path) -> None:
        assert read_ceilings(path).macs_per_second > 0

    makes: list[Any] = [lambda draw: json.dumps(mutate(draw, good)).encode() for _ in range(200)]
    makes += repeated(100, flip, json.dumps(good).encode())
    assert 0 < attack(tmp_path, "case.json", makes, use) < 300


def test_300_damaged_logs_never_stop_a_resumed_run(tmp_path: Path) -> None:
    lines = [",".join(COLUMNS), *(f"{k},0.5,1e-05,0,inf,nan,2.25" for k in range(1, 9))]
    good = "\n".join(lines).encode()

    def use(path: Path) -> None:
        if path.stat().st_size:
            CsvLog(path, 8, resumed_at=5).close()
            head, *rest = path.read_text().splitlines()
            assert head == lines[0]
            assert all(line.count(",") == 6 and int(line.split(",")[0]) <= 5 for line in rest)

    makes: list[Any] = [*repeated(200, flip, good), *repeated(99, cut, good), lambda _: good]
    assert attack(tmp_path, "case.csv", makes, use) == 300


def test_200_damaged_folders_of_diffusers(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    folder = tmp_path / "whole"
    saved = diffusers.DiTTransformer2DModel(
        sample_size=4, num_layers=1, num_attention_heads=1, attention_head_dim=8, in_channels=4,
        out_channels=8, num_embeds_ada_norm=5,
    )  # fmt: skip
    saved.save_pretrained(tmp_path / "good", max_shard_size="3KB")
    index = "diffusion_pytorch_model.safetensors.index.json"

    def use(path: Path) -> None:
        for file in (tmp_path / "good").iterdir():
            if file.name != path.name:
                (folder / file.name).write_bytes(file.read_bytes())
        (folder / path.name).write_bytes(path.read_bytes())
        try:
            load_diffusers(folder)
        except (ValueError, OSError) as error:
            assert str(folder) in str(error)  # noqa: PT017
            raise ValueError(path) from error

    folder.mkdir()
    for name in ("config.json", index):
        good = json.loads((tmp_path / "good" / name).read_text())
        makes = [lambda draw, good=good: json.dumps(mutate(draw, good)).encode()] * 100
        (tmp_path / name).mkdir()
        assert 0 < attack(tmp_path / name, name, makes, use) < 100
