"""The command l2c-rt, run in this process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from l2c_rt.cli import main

PRESET = "l2c/dit-xl-2-256/ddim-20"


def run(*words: str | Path) -> Result:
    """The command's exit code and output."""
    return CliRunner().invoke(main, [str(word) for word in words])


def done(*words: str | Path) -> str:
    """What a command that succeeds prints."""
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout
