"""The codes that commands end with, their one line of error, and the help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PRESET, done, run

import l2c_rt as rt

COMMANDS = ("inspect", "convert", "learn", "sample", "compare", "bench", "demo")


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
