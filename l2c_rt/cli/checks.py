"""What is checked before torch is imported: files that are read, and places that are written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import click

from l2c_rt.cli.exits import reading, refuse
from l2c_rt.figures import require_matplotlib
from l2c_rt.untrusted.atomic_write import require_writable
from l2c_rt.untrusted.bounded_read import require_regular
from l2c_rt.untrusted.weights_pickle import WEIGHT_SUFFIXES

DIGITS = "digits"
"""The name of the model that the package carries, in place of a weights file."""

WEIGHTS_METAVAR = f"WEIGHTS|{DIGITS}"


def device_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The name of a torch device; whether this machine has it, only torch can say."""
    if value is not None and not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d{1,3})?", value):
        raise click.BadParameter(f"{value!r} is none such as cpu, cuda, cuda:1, mps or xpu")
    return value


device_option = click.option(
    "--device", callback=device_name, default="cpu", show_default=True, help="A torch device."
)


def check_writable(option: str, path: Path, force: bool) -> None:
    """End with a usage error where a file cannot be written, or only over one without --force."""
    with _writing(option, path):
        if path.exists() and not force:
            refuse(option, f"{path} exists; give --force to overwrite it")
        if not path.absolute().parent.is_dir():
            refuse(option, f"{path.parent} is not a folder")
        require_writable(path)


def check_picture(option: str, path: Path, force: bool) -> None:
    """As `check_writable`, of a PNG that matplotlib draws."""
    if path.suffix.lower() != ".png":
        refuse(option, f"{path}: the picture is a PNG; name it .png")
    check_writable(option, path, force)
    require_matplotlib()


def check_folder(option: str, folder: Path) -> None:
    """End with a usage error where a folder cannot be made or cannot be written into."""
    with _writing(option, folder):
        place = folder.absolute()
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            refuse(option, f"{place} is not a folder")
        require_writable(place / "file")


@contextmanager
def _writing(option: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a regular file"
        refuse(option, f"{path} cannot be written: {reason}")


def check_weights(name: str) -> None:
    """End where `name` is neither the digits nor a file or folder that weights are read from."""
    path = Path(name)
    if name == DIGITS:
        return
    with reading():
        if path.is_dir():
            whole = (path / "model_index.json").exists() and not (path / "config.json").exists()
            path = path / "transformer" if whole else path
            return require_regular(path / "config.json")
        require_regular(path)
        if path.suffix not in WEIGHT_SUFFIXES:
            raise ValueError(f"{path}: a weight file ends in one of {', '.join(WEIGHT_SUFFIXES)}")


def check_file(path: str) -> None:
    """End where `path` is not a file."""
    with reading():
        require_regular(path)


def require_package(module: str, what: str, install: str) -> None:
    """ImportError saying what to install where a package, which may import torch, is absent."""
    if find_spec(module) is None:
        raise ImportError(f"{what} needs {module}: pip install {install}", name=module)
