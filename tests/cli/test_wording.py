"""Messages of the library in the words of a command."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from command_line import done, run

from l2c_rt.cli import main
from l2c_rt.cli.wording import in_cli_words


@pytest.mark.parametrize(
    ("command", "text", "told"),
    [
        ("sample", "no published size has width 8; give num_heads=", "give --num-heads"),
        ("sample", "sample: guidance; pass cfg_scale=1", "guidance; pass --cfg-scale 1"),
        ("bench", 'backend="fused": no; compile with backend="reference"',
         "--backend fused: no; compile with --backend reference"),
        ("learn", "learn: lr is nan, wanted a number", "--lr is nan, wanted a number"),
        ("learn", "learn: batch_size is 0", "--batch-size is 0"),
        ("learn", "begun with lam=None, data=True; use resume=True",
         "begun with no --lam, --data; use --resume"),
        ("compare", "give reuse=0.5", "give --reuse 0.5"),
        ("demo", "steps=0", "--steps 0"),
    ],
)  # fmt: skip
def test_keywords_become_the_options_of_the_command(command: str, text: str, told: str) -> None:
    words, named = in_cli_words(text, main.commands[command])
    assert told in words
    assert named


@pytest.mark.parametrize(
    "text", ["/tmp/steps=5/num_heads/x.pt: No such file", "takes adapter=", "my_num_heads", "steps"]
)
def test_paths_and_what_is_no_option_stay_as_they_are(text: str) -> None:
    assert in_cli_words(text, main.commands["sample"]) == (text, False)


@pytest.mark.parametrize(
    ("command", "subject"),
    [("sample", "--router"), ("inspect", "FILE|PRESET"), ("fit", "FILE|PRESET"),
     ("compare", "FILE|PRESET"), ("learn", "the schedule")],
)  # fmt: skip
def test_a_schedule_is_called_what_the_command_calls_it(command: str, subject: str) -> None:
    told, _ = in_cli_words("CacheSchedule: 8 branches", main.commands[command])
    assert told == f"{subject}: 8 branches"


def test_a_run_that_is_taken_up_with_other_options_is_told_them_as_options(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ("learn", "dit.safetensors", "--steps", "4", "--iterations", "1", "--batch-size", "1",
             "--report", "0", "--out", "x")  # fmt: skip
    done(*words)
    result = run(*words, "--resume", "--seed", "1")
    assert result.exit_code == 2, result.output
    assert "begun with --seed 0, now it is --seed 1" in result.stderr.splitlines()[-1]


def test_a_warning_of_ours_is_one_line_without_a_line_of_code(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    done("learn", "dit.safetensors", "--steps", "4", "--iterations", "1", "--batch-size", "1",
         "--report", "0", "--out", "x")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("sample", "no-null.safetensors", "--router", "x/router.safetensors",
                     "--cfg-scale", "1", "-o", "x.npy")  # fmt: skip
    assert result.exit_code == 0, result.output
    told = [line for line in result.stderr.splitlines() if "Warning" in line]
    assert len(told) == 1
    assert told[0].startswith("Warning: the schedule was learned on a model of other ")
