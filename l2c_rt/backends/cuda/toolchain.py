"""What Triton needs of a machine to compile and launch kernels."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

TRITON = ((3, 6), (3, 9))
"""The oldest and the newest version that is known."""


def why_not_triton() -> str:
    """Why this Triton is not used; empty where it is."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; pip install l2c_rt[gpu]"
    import triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if not TRITON[0] <= version <= TRITON[1]:
        return f"triton is {triton.__version__}, wanted 3.6 to 3.9; pip install l2c_rt[gpu]"
    return ""


def why_no_launchers() -> str:
    """Why Triton cannot build what launches its kernels, a small C program for each signature;
    empty where it can."""
    import triton

    if triton.knobs.build.impl is not None:
        return ""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or shutil.which(compiler) is None:
        return (
            f"triton builds its launchers with a C compiler, and {compiler or 'gcc or clang'} is "
            "not there; apt-get install gcc, or set CC"
        )
    header = Path(_include_folder()) / "Python.h"
    if not header.exists():
        return (
            f"triton builds its launchers against Python's headers, and {header} is not there; "
            "apt-get install python3-dev, or use a Python that has them"
        )
    return ""


def _include_folder() -> str:
    # As Triton has it: "posix_local" is Debian's, for what a user installs.
    scheme = sysconfig.get_default_scheme()
    return sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]
