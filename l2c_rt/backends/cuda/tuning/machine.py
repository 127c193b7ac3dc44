"""The name of this machine, as far as measured times depend on it."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch

from l2c_rt._C import cublas_lt_version
from l2c_rt.backends.cuda.tuning.candidates import SPLITS
from l2c_rt.kernels._launch import ATTENTION_TILES, LINEAR_TILES, WIDE_TILES

SETTINGS = ("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE", "L2C_RT_PDL")
KERNEL_FILES = (
    "_launch",
    "_launcher",
    "_matrix_math",
    "_row_math",
    "linear",
    "split_linear",
    "skip_linear",
    "attention",
)


def machine_key(device_name: str) -> str:
    """What a measured time depends on: GPU, torch, triton, and our kernels with their tiles."""
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = "none"
    digest = hashlib.sha256(repr((LINEAR_TILES, WIDE_TILES, ATTENTION_TILES, SPLITS)).encode())
    files = importlib.resources.files("l2c_rt.kernels")
    for name in KERNEL_FILES:
        digest.update(files.joinpath(f"{name}.py").read_bytes())
    kernels = digest.hexdigest()[:16]
    versions = f"torch {torch.__version__} | triton {version}"
    return f"{device_name} | {versions} | kernels {kernels}{_settings()}"


def _settings() -> str:
    """What a user sets that times depend on: cuBLAS has other algorithms with other workspaces."""
    values = {name: os.environ.get(name) for name in SETTINGS}
    return "".join(f" | {name}={value}" for name, value in values.items() if value)


def kernels_digest() -> str:
    """Of the source of every kernel."""
    digest = hashlib.sha256()
    files = importlib.resources.files("l2c_rt.kernels")
    for file in sorted(files.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".py"):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def describe_device(device: torch.device | int = 0) -> str:
    """Name, size and driver of a GPU, for `Tuner`."""
    properties = torch.cuda.get_device_properties(device)
    cudnn: Callable[[], int | None] = torch.backends.cudnn.version
    return (
        f"{properties.name}, {properties.multi_processor_count} multiprocessors, "
        f"driver {_driver_version()}, cuDNN {cudnn()}, cuBLASLt {_cublas_lt()}"
    )


def _cublas_lt() -> str:
    """Algorithms have other names in another version."""
    try:
        return str(cublas_lt_version())
    except RuntimeError:
        return "none"


def _driver_version() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:
        text = ""
    number = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    if number:
        return number.group()
    # The CUDA version that the driver serves: coarser, but known everywhere.
    version: Callable[[], int] = getattr(torch._C, "_cuda_getDriverVersion", lambda: 0)
    return str(version())
