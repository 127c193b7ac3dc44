"""Builds `l2c_rt._C` with CMake and ninja; needs neither torch nor a CUDA toolkit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

# kernels/ is l2c_rt.kernels: a top-level package of that name would collide with other projects'.
# A set, because a checkout with a link at l2c_rt/kernels has those packages twice.
KERNELS = find_packages(str(ROOT), include=["kernels", "kernels.*"])
PACKAGES = sorted(
    {
        *find_packages(str(ROOT), include=["l2c_rt", "l2c_rt.*"]),
        *(f"l2c_rt.{name}" for name in KERNELS),
    }
)


class CMakeExtension(Extension):
    """An extension whose sources are CMake's business."""

    def __init__(self, name: str) -> None:
        super().__init__(name, sources=[])


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / "cmake"
        # CMake's cache holds absolute paths: of the checkout, which may have moved since, and of
        # ninja and pybind11, which lay in a build environment that pip has deleted.
        if build.exists():
            shutil.rmtree(build)
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            "-DCMAKE_BUILD_TYPE=Release",
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--target", "_C"], check=True)


class CurrentModules(build_py):
    """Copies modules into an empty folder: one that an earlier build copied may be gone by now."""

    def run(self) -> None:
        copied = Path(self.build_lib).resolve() / "l2c_rt"
        if copied.is_dir() and copied != ROOT / "l2c_rt":
            shutil.rmtree(copied)
        super().run()


setup(
    packages=PACKAGES,
    package_dir={"l2c_rt.kernels": "kernels"},
    package_data={"": ["py.typed", "*.pyi", "*.json"], "l2c_rt.demo": ["assets/*"]},
    include_package_data=False,
    ext_modules=[CMakeExtension("l2c_rt._C")],
    cmdclass={"build_ext": CMakeBuild, "build_py": CurrentModules},
    zip_safe=False,
)
