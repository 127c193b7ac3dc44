"""The codes that commands end with, their one line of error, and the help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import PRESET, done, run
from toys import toy_uvit

import l2c_rt as rt

COMMANDS = ("inspect", "convert", "learn", "sample", "bench", "demo")


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["inspect", PRESET, "--reuse", "0.5"], 2, "needs the scores of a router"),
        (["inspect", PRESET, "--threshold", "nan"], 2, "not in 0..1"),
        (["inspect", "{router}", "--reuse", "1.5"], 2, "not in 0..1"),
        (["inspect", "{router}", "--reuse", "0.5", "--threshold", "0.5"], 2, "not both"),
        (["inspect", PRESET, "--plot", "map.jpg"], 2, "name it .png"),
        (["inspect", "{schedule}", "--weights", "{dit}", "--width", "8"], 2, "says this"),
        (["inspect", "no-such.pt"], 3, "no such file, and no preset; presets are l2c/"),
        (["inspect", "no-such.json"], 3, "no such file"),
        (["inspect", "{dit}"], 3, "wanted l2c_rt.router"),
        (["inspect", "{text}"], 3, "text.json"),
        (["inspect", "{folder}"], 3, "ends in one of"),
        (["inspect", PRESET, "--depth", "12"], 4, "56 branches, but this model has 24"),
        (["inspect", "{schedule}", "--weights", "{text}"], 3, "ends in one of"),
        (["convert", PRESET, "out.safetensors"], 2, "needs scores, and IN is a preset"),
        (["convert", "{router}", "out.txt"], 2, "ends in none of"),
        (["convert", "{router}", "out.json", "--to", "router"], 2, "ends in .safetensors"),
        (["convert", "{router}", "out.safetensors", "--reuse", "0.5"], 2, "keeps all scores"),
        (["convert", "{router}", "{text}"], 2, "exists; give --force"),
        (["convert", "{router}", "nowhere/out.json"], 2, "is not a folder"),
        (["sample", "{dit}", "-o", "x.npy"], 2, "needed for"),
        (["sample", "{dit}", "--router", "full", "-o", "x.npy"], 2, "--steps"),
        (["sample", "{dit}", "--router", "{schedule}", "-o", "x.png"], 2, "1 or 3 channels"),
        (["sample", "{dit}", "--router", "{schedule}", "-o", "x.gif"], 2, "ends in none of"),
        (["sample", "{dit}", "--router", "{schedule}", "-o", "{text}"], 2, "ends in none of"),
        (["sample", "{dit}", "--router", "{schedule}", "--labels", "4-11", "-o", "x.npy"], 2,
         "not within 0..9"),
        (["sample", "{dit}", "--router", "{schedule}", "--device", "gpu", "-o", "x.npy"], 2,
         "--device"),
        (["sample", "{dit}", "--router", PRESET, "-o", "x.npy"], 4, "56 branches"),
        (["sample", "{uvit}", "--router", "{schedule}", "--num-heads", "2", "-o", "x.npy"], 4,
         "holds a U-ViT, the schedule is for a DiT"),
        (["sample", "{uvit}", "--router", "full", "--steps", "5", "--num-heads", "2", "-o",
          "x.npy"], 4, "even number of evaluations"),
        (["sample", "{router}", "--router", "{schedule}", "-o", "x.npy"], 3, "the file has logits"),
        (["sample", "{dit}", "--router", "{schedule}", "-o", "x.npy", "--key", "ema"], 3,
         "no weights under the key 'ema'; there are some under ''"),
        (["sample", "{dit}", "--router", "{schedule}", "-o", "x.npy", "--seed", str(2**70)], 2,
         "not in the range"),
        (["sample", "{dit}", "--router", "{schedule}", "-o", "x.npy", "--cfg-scale", "nan"], 2,
         "nan is not a finite number"),
        (["sample", "{folder}", "--router", "{schedule}", "-o", "x.npy"], 3, "config.json: No"),
        (["learn", "{dit}", "--steps", "4", "--out", "x", "--lam", "inf"], 2, "not a finite"),
        (["learn", "{dit}", "--steps", "4", "--out", "x", "--lr", "nan"], 2, "not a finite"),
        (["learn", "{dit}", "--steps", "4", "--out", "x", "--reuse", "nan"], 2, "not a finite"),
        (["learn", "{dit}", "--steps", "4", "--out", "x", "--seed", str(2**70)], 2, "in the range"),
        (["learn", "{dit}", "--steps", "4", "--out", "x", "--data", "{text}"], 3, "text.json"),
        (["learn", "{dit}", "--steps", "4", "--out", "x", "--data", "{folder}"], 3,
         "not a regular file"),
        (["demo", "--seed", str(2**33)], 2, "not in the range"),
        (["bench", "{schedule}", "--weights", "{dit}", "--width", "32"], 2, "random model"),
        (["bench", "l2c/uvit-h-2-256/dpm-20", "--width", "6"], 4, "embed_dim"),
    ],
)  # fmt: skip
def test_a_refusal_has_its_code_and_one_line_that_says_why(
    words: list[str], code: int, reason: str, tmp_path: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.json").write_text("this is text")
    torch.save(toy_uvit().state_dict(), tmp_path / "uvit.pt")
    places = {
        "{router}": "router", "{schedule}": "schedule", "{dit}": "dit_weights",
        "{text}": tmp_path / "text.json", "{uvit}": tmp_path / "uvit.pt", "{folder}": tmp_path,
    }  # fmt: skip
    for place, what in places.items():
        if place in words:
            path = request.getfixturevalue(what) if isinstance(what, str) else what
            words = [str(path) if word == place else word for word in words]
    result = run(*words)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: ")
    assert reason in lines[-1]
    assert len(lines) == 1 or code == 2 or "evaluation" in lines[0]


@pytest.mark.parametrize("name", ["empty.json", "empty.safetensors", "empty.pt"])
def test_an_error_names_the_file_once(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    result = run("inspect", tmp_path / name)
    assert result.exit_code == 3
    assert result.stderr.count(name) == 1


def test_an_unforeseen_error_ends_with_1_and_debug_shows_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("l2c_rt.cli.inspect.read_source", fail)
    result = run("inspect", PRESET)
    assert (result.exit_code, result.stderr) == (1, "Error: two lines\n")
    result = run("--debug", "inspect", PRESET)
    assert result.exit_code == 1
    assert "in fail" in result.stderr


def test_debug_shows_the_traceback_of_a_refused_file_too() -> None:
    result = run("--debug", "inspect", "no-such.pt")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_examples(command: str) -> None:
    shown = done(command, "--help")
    assert "Examples:" in shown
    assert f"  l2c-rt {command}" in shown
    assert command in done("--help")


def test_the_version_is_the_packages() -> None:
    assert done("--version").split() == ["l2c-rt", rt.__version__]


def test_a_process_ends_with_the_code_and_no_traceback() -> None:
    words = [sys.executable, "-m", "l2c_rt.cli", "inspect", "no-such.pt"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith("Error: no-such.pt: no such file")
    assert ended.stderr.count("\n") == 1
