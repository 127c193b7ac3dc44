"""The environment: versions, driver, compiler, folders, settings of the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from l2c_rt._C import cuda_available
from l2c_rt.backends.cuda.toolchain import why_no_launchers, why_not_triton
from l2c_rt.backends.tuning.cache_file import default_path
from l2c_rt.doctor.finding import Finding
from l2c_rt.untrusted.atomic_write import require_writable

OLDEST_TORCH, OLDEST_GPU = (2, 11), (8, 0)


def environment(device: torch.device) -> Iterator[Finding]:
    """Everything that is looked at without running anything."""
    yield _torch()
    yield _gpu(device)
    yield from _triton(device)
    yield from _folders()
    yield _settings()


def _torch() -> Finding:
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    known = version >= OLDEST_TORCH
    remedy = "" if known else 'pip install "torch>=2.11"'
    return Finding("torch", "OK" if known else "FAIL", torch.__version__, remedy)


def _gpu(device: torch.device) -> Finding:
    if device.type != "cuda":
        if not cuda_available():
            return Finding("gpu", "WARN", "no driver with a GPU: nothing on a GPU is checked")
        text = "the driver shows a GPU, and this torch does not use it: nothing on it is checked"
        remedy = "install a CUDA build of torch, and check CUDA_VISIBLE_DEVICES"
        return Finding("gpu", "WARN", text, remedy)
    have = torch.cuda.get_device_capability(device)
    free, total = torch.cuda.mem_get_info(device)
    text = (
        f"{torch.cuda.get_device_name(device)}, compute capability {have[0]}.{have[1]}, "
        f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    )
    if have < OLDEST_GPU:
        return Finding("gpu", "FAIL", text, 'it is older than 8.0: backend="reference" runs')
    if free < 2 << 30:
        return Finding("gpu", "WARN", text, "end what holds its memory")
    return Finding("gpu", "OK", text)


def _triton(device: torch.device) -> Iterator[Finding]:
    missing = "FAIL" if device.type == "cuda" else "WARN"
    why_not = why_not_triton()
    if why_not:
        text, _, remedy = why_not.partition("; ")
        yield Finding("triton", missing, text, remedy)
        return
    import triton

    yield Finding("triton", "OK", triton.__version__)
    text, _, remedy = why_no_launchers().partition("; ")
    status = missing if text else "OK"
    yield Finding("compiler", status, text or "a C compiler, with Python's headers", remedy)


def _folders() -> Iterator[Finding]:
    cache = default_path()
    named = os.environ.get("TRITON_CACHE_DIR")
    triton = Path(named) if named else Path(os.environ.get("TRITON_HOME", "~")) / ".triton/cache"
    for name, file in (("cache", cache), ("triton cache", triton.expanduser() / "any")):
        if file is None:
            text = "no home: what is tuned and checked is not kept"
            yield Finding(name, "WARN", text, "set HOME or XDG_CACHE_HOME")
            continue
        folder = next(f for f in (file.parent, *file.parents) if f.exists())
        try:
            require_writable(folder / file.name)
            yield Finding(name, "OK", str(file.parent))
        except (OSError, ValueError) as error:
            yield Finding(name, "WARN", f"not writable: {error}", "what is in it is made anew")


def _settings() -> Finding:
    odd = []
    if torch.get_default_dtype() != torch.float32:
        odd.append(f"default dtype {torch.get_default_dtype()}")
    if torch.get_default_device().type != "cpu":
        odd.append(f"default device {torch.get_default_device()}")
    names = ("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE", "CUDA_LAUNCH_BLOCKING")
    odd += [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    slow = os.environ.get("CUDA_LAUNCH_BLOCKING") not in (None, "0")
    remedy = "unset CUDA_LAUNCH_BLOCKING: every launch waits" if slow else ""
    return Finding("settings", "WARN" if slow else "OK", ", ".join(odd) or "the defaults", remedy)
