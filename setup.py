"""Builds `l2c_rt._C` with CMake and ninja; needs neither torch nor a CUDA toolkit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent

# Listed one by one: automatic discovery does not know that kernels/ is l2c_rt.kernels.
PACKAGES = [
    "l2c_rt",
    "l2c_rt.adapters",
    "l2c_rt.backends",
    "l2c_rt.backends.cuda",
    "l2c_rt.cli",
    "l2c_rt.demo",
    "l2c_rt.kernels",
    "l2c_rt.learning",
    "l2c_rt.models",
    "l2c_rt.presets",
]


class CMakeExtension(Extension):
    """An extension whose sources are CMake's business."""

    def __init__(self, name: str) -> None:
        super().__init__(name, sources=[])


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve()
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            "-DCMAKE_BUILD_TYPE=Release",
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--target", "_C"], check=True)


setup(
    packages=PACKAGES,
    package_dir={"l2c_rt.kernels": "kernels"},
    package_data={
        "l2c_rt": ["py.typed", "_C.pyi"],
        "l2c_rt.presets": ["*.json"],
        "l2c_rt.demo": ["assets/*"],
    },
    include_package_data=False,
    ext_modules=[CMakeExtension("l2c_rt._C")],
    cmdclass={"build_ext": CMakeBuild},
    zip_safe=False,
)
