"""Numbers that no command can use are usage errors, exit 2, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from l2c_rt.cli import main


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("sample", "--seed", str(2**70)),
        ("sample", "--seed", "-1"),
        ("sample", "--cfg-scale", "nan"),
        ("sample", "--cfg-scale", "inf"),
        ("learn", "--seed", str(2**70)),
        ("learn", "--lam", "inf"),
        ("learn", "--lam", "nan"),
        ("learn", "--lr", "inf"),
        ("learn", "--reuse", "nan"),
        ("learn", "--cfg-scale", "nan"),
        ("demo", "--seed", str(2**32)),
    ],
)
def test_a_number_out_of_range_is_a_usage_error(
    tmp_path: Path, command: str, option: str, value: str
) -> None:
    needed = {
        "sample": ["digits", "-o", str(tmp_path / "out.npy")],
        "learn": ["digits", "--steps", "20", "--out", str(tmp_path / "out")],
        "demo": ["--out", str(tmp_path / "out")],
    }
    result = CliRunner().invoke(main, [command, *needed[command], option, value])
    assert result.exit_code == 2, result.output
    assert option in result.output
    assert not list(tmp_path.iterdir())
