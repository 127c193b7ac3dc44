"""`l2c-rt calibrate`: the file that it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import done, run

from l2c_rt.schedule.calibration import Calibration


def test_the_file_is_the_calibration_of_the_model(folder: Path) -> None:
    words = ("calibrate", "dit.safetensors", "--steps", 4, "-o", "c.safetensors", "--samples", 2)
    printed = done(*map(str, words), "--prior")
    assert printed.startswith("c.safetensors\n<Calibration 4 steps x 6 branches")
    calibration = Calibration.load("c.safetensors")
    assert calibration.branches[:2] == ("attn-0", "mlp-0")
    assert calibration.prior.shape[:2] == (4, 6)
    assert "exists; give --force" in run(*map(str, words)).output
    assert done(*map(str, words), "--force", "--granularity", "block")
    assert Calibration.load("c.safetensors").magnitudes.shape == (1, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "1", "-o", "c.safetensors"), "1 is not in the range"),
        (("--steps", "4", "-o", "c.json"), "a calibration is a .safetensors file"),
        (("--steps", "4", "-o", "nowhere/c.safetensors"), "nowhere is not a folder"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_model_is_read(folder, words, message):
    result = run("calibrate", "dit.safetensors", *words)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ").replace("  ", " ")
