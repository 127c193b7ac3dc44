"""A stand-in for Triton's CUDA driver: compiles what a launch would compile, and records it.

With it the real specialisation of every kernel, its arguments and the order of launches can be
tested on a machine without a GPU.  Tensors live on the CPU and are never read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver as active_driver

SHARED_LIMIT = {80: 166912, 90: 232448, 100: 232448}
"""Bytes of shared memory that one block may ask for, by architecture."""


@dataclass(frozen=True)
class Launch:
    """One kernel launch.  `aligned` names the arguments that the compiler took to be multiples of
    16 (addresses included); `cubin` is the code that would have run."""

    kernel: str
    grid: tuple[int, int, int]
    arguments: dict[str, Any]
    aligned: frozenset[str]
    shared: int
    warps: int
    pdl: bool
    cubin: bytes

    def tensors(self) -> dict[str, torch.Tensor]:
        return {k: v for k, v in self.arguments.items() if isinstance(v, torch.Tensor)}


@contextmanager
def recorded_launches(arch: int = 90) -> Iterator[list[Launch]]:
    """The launches made inside, compiled for that architecture."""
    recorder = _Recorder(arch)
    before = active_driver._active
    active_driver.set_active(recorder)
    try:
        yield recorder.launches
    finally:
        active_driver.set_active(before)


class _Recorder:
    """What `JITFunction.run` and `CompiledKernel` ask of a driver."""

    def __init__(self, arch: int) -> None:
        self.launches: list[Launch] = []
        self.arch = arch
        self.utils = _Utils(arch)
        self.launcher_cls = _Launcher

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        # Compiled kernels are kept per device, and each architecture must have its own.
        return 1000 + self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        return None

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class _Utils:
    def __init__(self, arch: int) -> None:
        self._shared = SHARED_LIMIT[arch]

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self._shared, "warpSize": 32, "multiprocessor_count": 132}

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[Any, ...]:
        # (module, function, registers, spills, threads): no module, so that nothing is unloaded.
        return None, kernel, 0, 0, 1024


class _Launcher:
    """Made once per compiled kernel; reports to whichever recorder is active when it is called."""

    def __init__(self, src: Any, metadata: Any) -> None:
        names = src.fn.arg_names
        self._metadata = metadata
        self._names = names
        self._aligned = frozenset(
            names[path[0]]
            for path, attributes in src.attrs.items()
            if ["tt.divisibility", 16] in attributes
        )

    def __call__(self, x: int, y: int, z: int, stream: int, function: bytes, *rest: Any) -> None:
        recorder = triton.runtime.driver.active
        arguments = rest[len(rest) - len(self._names) :]
        recorder.launches.append(
            Launch(
                kernel=self._metadata.name,
                grid=(x, y, z),
                arguments=dict(zip(self._names, arguments, strict=True)),
                aligned=self._aligned,
                shared=self._metadata.shared,
                warps=self._metadata.num_warps,
                pdl=self._metadata.launch_pdl,
                cubin=function,
            )
        )
