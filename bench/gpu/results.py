"""One file per measurement: its samples, or its traceback, and what made it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
import traceback
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from l2c_rt.measure.machine import device_facts

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results" / "gpu"
PACKAGES = ("triton", "diffusers", "cache-dit", "nvidia-ml-py")
SETTINGS = ("CUBLAS", "CUDA_", "PYTORCH_", "TORCH", "TRITON_")
"""How the names of variables begin that change what a figure is."""


def provenance(device: torch.device) -> dict[str, Any]:
    """Commit, device and versions, in plain types."""
    return {
        "commit": commit(),
        "device": device_facts(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
        | {package: version(package) for package in PACKAGES},
        "system": platform.platform(),
        "settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS)},
    }


def version(package: str) -> str | None:
    """Of an installed package; None where it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The commit checked out, with "-dirty" where tracked files differ.  L2C_RT_COMMIT names it
    for a copy without its git folder; where that is not set either, why it is unknown."""
    if named := os.environ.get("L2C_RT_COMMIT"):
        return named
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
        changes = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown: {error}"
    return head + ("-dirty" if changes else "")


def file_of(folder: Path, name: str) -> Path:
    """The file of a test's name: `bench_run[case-n1]` is run-case-n1.json."""
    return folder / f"{name.removeprefix('bench_').replace('[', '-').rstrip(']')}.json"


def measured(
    file: Path, header: dict[str, Any], device: torch.device, measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Write what `measure` gives under the header, or, as "failed", the traceback of its error."""
    began = time.perf_counter()
    result = header | {"began": time.strftime("%Y-%m-%dT%H:%M:%S%z")} | provenance(device)
    # Others' warnings are kept with the result; pytest would make them errors.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result |= measure()
            # Clocks under load are those after it; what a broken device says is part of the error.
            result["device_after"] = device_facts(device)
        except Exception:
            result["failed"] = traceback.format_exc()
    result["warnings"] = sorted({f"{w.category.__name__}: {w.message}"[:300] for w in caught})
    result["took_seconds"] = time.perf_counter() - began
    _write(file, result)
    return result


def _write(file: Path, result: dict[str, Any]) -> None:
    """All of the file or nothing: a run may be stopped at any time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1, default=str) + "\n")
    partial.replace(file)
