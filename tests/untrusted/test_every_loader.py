"""Whatever stands where a file should be, every loader says so with its name, and does not wait."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from toy_learning import task_of
from toys import toy_dit

from l2c_rt.backends.tuning.machine_file import read_machines
from l2c_rt.correctors import Fitted, ScaleShift
from l2c_rt.demo.train_state import TrainSettings, resume
from l2c_rt.learning.checkpoint import load_checkpoint
from l2c_rt.learning.log import CsvLog
from l2c_rt.learning.state import start
from l2c_rt.measure.ceilings import read_ceilings
from l2c_rt.models import load_diffusers, load_dit, load_uvit
from l2c_rt.models.weight_files import read_tensors
from l2c_rt.policies.router import Router
from l2c_rt.regression.checkpoint import Checkpoint as FitCheckpoint
from l2c_rt.regression.fits import Fits
from l2c_rt.resolve import resolve_schedule
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.calibration import Calibration
from l2c_rt.searching.checkpoint import Checkpoint as SearchCheckpoint


def learned(path: Path) -> None:
    task = task_of(toy_dit(depth=1))
    load_checkpoint(
        path, start([0], task.source.costs, task.options), task.options, task.fingerprint
    )


def fit_sums(path: Path) -> Any:
    return FitCheckpoint(path, "", "").load([Fits(np.ones((2, 1), np.bool_), 1, 1, 0.0)])


def shard(path: Path) -> Any:
    """A folder of diffusers whose weights lie at `path`."""
    (path.parent / "config.json").write_text('{"_class_name": "DiTTransformer2DModel"}')
    return load_diffusers(path.parent)


LOADERS: list[tuple[str, Callable[[Path], Any]]] = [
    ("a.safetensors", Router.load),
    ("a.pt", Router.load),
    ("a.json", CacheSchedule.load),
    ("a.json", CacheSchedule.from_smoothcache),
    ("a.json", resolve_schedule),
    ("a.safetensors", load_dit),
    ("a.pt", load_dit),
    ("a.ckpt", load_uvit),
    ("config.json", lambda path: load_diffusers(path.parent)),
    ("diffusion_pytorch_model.safetensors", shard),
    ("diffusion_pytorch_model.safetensors.index.json", shard),
    ("a.safetensors", lambda path: read_tensors(path, ("latents",))),
    ("a.safetensors", Calibration.load),
    ("a.safetensors", ScaleShift.load),
    ("a.safetensors", Fitted.load),
    ("a.safetensors", fit_sums),
    ("a.safetensors", lambda path: SearchCheckpoint(path, "", "").load((2, 1, 1), np.ones(1))),
    ("a.json", read_ceilings),
    ("a.json", read_machines),
    ("a.safetensors", learned),
    ("a.safetensors", lambda path: resume(path, TrainSettings(1, 0))),
    ("a.csv", lambda path: CsvLog(path, 1, resumed_at=1).close()),
]


@pytest.fixture(params=["pipe", "folder", "socket", "device"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Puts something that is no file where one of that name should be."""
    listener = socket.socket(socket.AF_UNIX)

    def put(name: str) -> Path:
        path = tmp_path / name
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "folder":
            path.mkdir()
        elif request.param == "socket":
            # A short name: that of a socket has at most some hundred bytes.
            here = os.open(tmp_path, os.O_RDONLY)
            listener.bind(f"/proc/self/fd/{here}/{name}")
            os.close(here)
        else:
            path.symlink_to("/dev/zero")
        return path

    yield put
    listener.close()


IDS = [f"{k}-{name}" for k, (name, _) in enumerate(LOADERS)]


@pytest.mark.parametrize(("name", "load"), LOADERS, ids=IDS)
def test_what_is_no_file_is_refused_by_name(place: Callable[[str], Path], name, load) -> None:
    with pytest.raises((ValueError, OSError)) as raised:
        load(place(name))
    assert name.partition(".")[0] in str(raised.value)


@pytest.mark.parametrize(("name", "load"), LOADERS, ids=IDS)
@pytest.mark.parametrize("content", [b"\x00" * 100, b"[" * 100_000, b"PK\x03\x04" + b"x" * 90],
                         ids=["zeros", "brackets", "zip"])  # fmt: skip
def test_what_is_another_file_is_refused_by_name(tmp_path: Path, name, load, content) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    if name.endswith(".csv"):
        load(path)  # A log is not worth refusing to train: what is not of it is left out.
    else:
        with pytest.raises((ValueError, OSError)) as raised:
            load(path)
        assert str(path) in str(raised.value)


def test_a_file_that_cannot_be_read_is_an_error_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"blocks.0.attn.qkv.weight": torch.ones(2)}, path)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("l2c_rt.untrusted.safetensors_file.SafetensorsFile.read", broken)
    with pytest.raises(OSError, match="Input/output error") as raised:
        read_tensors(path, ("blocks.0.attn.qkv.weight",))
    assert raised.value.filename == str(path)
