"""The image as far as it can be checked without docker: what it copies, asks and starts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lines(instruction: str) -> list[str]:
    """The arguments of an instruction wherever it stands, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction} (.*)$", text, re.MULTILINE)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for source in (
        "l2c_rt",
        "kernels",
        "csrc",
        "examples",
        "CMakeLists.txt",
        "README.md",
        "LICENSE",
    ):
        assert (ROOT / source).exists()
        assert source not in ignored
    copied = [words.split()[0] for words in lines("COPY") if not words.startswith("--from")]
    assert copied == [".", "examples"]
    for words in lines("COPY"):
        if words.startswith("--from"):
            assert words.split()[0].removeprefix("--from=") in (ROOT / "Dockerfile").read_text()


def test_the_health_check_asks_what_the_example_serves() -> None:
    example = (ROOT / "examples" / "fastapi_app.py").read_text()
    command = json.loads(lines("HEALTHCHECK")[0].partition("CMD ")[2])
    assert '@app.get("/health")' in example
    assert "localhost:8000/health" in command[2]
    compile(command[2], "health", "exec")
    assert json.loads(lines("CMD")[0])[-1] == "fastapi_app:app"
    assert lines("EXPOSE") == ["8000"]
    assert lines("USER") == ["serving"]


@pytest.mark.skipif(not Path("/bin/sh").exists(), reason="needs sh")
@pytest.mark.parametrize("code", [0, 1])
def test_nothing_is_served_on_a_machine_that_doctor_finds_ill(code: int, tmp_path: Path) -> None:
    command = tmp_path / "l2c-rt"
    command.write_text(f'#!/bin/sh\n[ "$1" = doctor ] || exit 9\nexit {code}\n')
    command.chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    entry = json.loads(lines("ENTRYPOINT")[0])
    words = [*entry, shutil.which("echo") or "echo", "served", "a b"]
    process = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (code, "" if code else "served a b\n")
