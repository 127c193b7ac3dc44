"""What a figure must say about the machine and the program that made it.  Only reads."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
MEASURED = ("l2c_rt", "kernels", "csrc", "bench/gpu", "tests/support/weights.py")
"""What a figure depends on: with other contents, it is another figure."""

QUERY = (
    "name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit",
    "temperature.gpu", "memory.total",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Machine and versions, in plain types."""
    return {
        "gpu": _gpu(),
        "nvidia_smi": nvidia_smi(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "diffusers": _version("diffusers"),
        "cache_dit": _version("cache_dit"),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _gpu() -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "multiprocessors": found.multi_processor_count,
        "memory_bytes": found.total_memory,
        "capability": f"{found.major}.{found.minor}",
    }


def nvidia_smi() -> dict[str, str]:
    """Driver, clocks and limits as nvidia-smi reads them now; empty where it is not there."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader", "--id=0"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(QUERY, (value.strip() for value in out.stdout.split(",")), strict=False))


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:
        return None


def commit() -> str:
    """The commit checked out, with "-dirty" where tracked files differ; "" outside git."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("-dirty" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def source_digest(root: Path = ROOT) -> str:
    """A digest of the files that the figures depend on.

    Unlike the commit it does not change when results are committed, and it notices changes that
    are not.
    """
    digest = hashlib.sha256()
    for name in MEASURED:
        top = root / name
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for file in files:
            if file.suffix in (".py", ".cpp", ".h", ".hpp", ".json") and file.is_file():
                digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
