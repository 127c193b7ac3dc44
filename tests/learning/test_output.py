"""What a learning run leaves behind."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from toy_learning import learn_briefly
from toys import toy_dit

from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.policies.router import Router


def test_the_folder_tells_how_it_went(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    router = learn_briefly(toy_dit(), out=tmp_path / "new" / "run", iterations=5)
    folder = tmp_path / "new" / "run"
    assert Router.load(folder / "router.safetensors").training == router.training
    with (folder / "log.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["iteration"]) for line in lines] == [1, 2, 3, 4, 5]
    for line in lines:
        loss, error, penalty = (float(line[name]) for name in ("loss", "error", "penalty"))
        assert loss == pytest.approx(error + penalty, rel=1e-4)
        assert 0 <= float(line["reused_share"]) <= 1
    seconds = [float(line["seconds"]) for line in lines]
    assert seconds == sorted(seconds)
    assert (folder / "router.png").read_bytes().startswith(b"\x89PNG")


def test_the_router_says_how_it_was_learned() -> None:
    model = toy_dit()
    router = learn_briefly(model, seed=3)
    about = json.loads(router.training)
    assert router.source == "l2c_rt.learn, seed 3"
    assert about["options"]["seed"] == 3
    assert about["options"]["iterations"] == 4
    assert about["versions"]["torch"] == torch.__version__
    assert about["model"] == "DiT"
    assert router.fingerprint == model_fingerprint(model)
    assert about["loss_at_end"] >= about["error_at_end"] >= 0
