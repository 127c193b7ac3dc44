"""`l2c-rt demo`: what it passes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import done

from l2c_rt.demo.train import LOG_NAME


def test_demo_train_trains_as_many_steps_from_the_seed_as_it_is_told(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the demo extra is not installed")
    shown = done("demo", "train", "--out", tmp_path, "--steps", "1", "--seed", "4")
    assert Path(shown.strip()).parent == tmp_path
    log = json.loads((tmp_path / LOG_NAME).read_text())
    assert log["command"] == "l2c-rt demo train --steps 1 --seed 4"
