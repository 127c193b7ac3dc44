"""Runs interpreted_*.py in a process of its own: triton chooses between its compiler and its
interpreter when a kernel is defined, so one process cannot hold both."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parents[1] / "support"
PARTS = ("kernels", "products", "timesteps", "changes", "composed", "quantized", "batches")
CASES = [str(SUPPORT / f"interpreted_{part}.py") for part in PARTS]


def test_every_kernel_agrees_with_float64_in_tritons_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *CASES]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed, run.stdout[-2000:]
    assert int(passed[1]) > 100, run.stdout[-2000:]
