"""Every kernel on a GPU under compute-sanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_every_kernel_is_clean_under_compute_sanitizer(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).exists():
        pytest.skip("compute-sanitizer is not installed")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "86", sys.executable,
               str(SUPPORT / "every_kernel.py")]  # fmt: skip
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(SUPPORT)}
    # Once without the tool, which would also slow the compilation of every kernel down.
    plain = command[command.index(sys.executable) :]
    subprocess.run(plain, env=environment, check=True, capture_output=True, timeout=280)
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    if "not supported" in run.stdout + run.stderr:
        pytest.skip("compute-sanitizer does not take this device")
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "kernels ran" in run.stdout
