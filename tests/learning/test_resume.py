"""A stopped run, taken up again: bit for bit, or refused."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from toy_learning import TEST_PATHS, learn_briefly, toy_latents
from toys import toy_dit

from l2c_rt.policies.router import Router

pytest.importorskip("matplotlib", reason="the plot extra is not installed")

pytestmark = pytest.mark.usefixtures("no_pictures")


class Stop(Exception):
    """Raised in the middle of a run."""


def stop_after(model: Any, calls: int) -> Any:
    """Fail at that call of the last layer."""
    left = [calls]

    def count(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    return model.final_layer.register_forward_hook(count)


@pytest.mark.parametrize(
    ("options", "calls"),
    [({}, 3), ({}, 41), ({}, 50), ({"lam": 0.02, "lr": 0.1}, 41), ({"data": toy_latents()}, 44)],
)
def test_a_stopped_run_is_resumed_bit_for_bit(
    tmp_path: Path, options: dict[str, Any], calls: int
) -> None:
    # 6 evaluations and 3 students per iteration on trajectories, 3 calls on latents.
    model = toy_dit(depth=1)
    options = {"iterations": 7 if "data" not in options else 19, "save_every": 2, **options}
    learn_briefly(model, out=tmp_path / "whole", **options)
    hook = stop_after(model, calls)
    with pytest.raises(Stop):
        learn_briefly(model, out=tmp_path / "stopped", resume=True, **options)
    hook.remove()
    resumed = learn_briefly(model, out=tmp_path / "stopped", resume=True, **options)
    whole = Router.load(tmp_path / "whole" / "router.safetensors")
    assert np.array_equal(resumed.logits, whole.logits)
    assert resumed.training == whole.training
    lines = [
        [line.rpartition(",")[0] for line in (tmp_path / run / "log.csv").read_text().splitlines()]
        for run in ("whole", "stopped")
    ]
    assert lines[0] == lines[1]
    kept = [tensors_of(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "stopped")]
    assert kept[0].keys() == kept[1].keys()
    for name, value in kept[0].items():
        assert torch.equal(value, kept[1][name]), name


def tensors_of(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


FORKED = """
import os, signal, sys
sys.modules["matplotlib"] = None  # Without pictures, which take longer.
sys.path[:0] = {paths!r}
from toy_learning import learn_briefly
from toys import toy_dit

def learned(out, *, resume=False, calls=None):
    model, left = toy_dit(depth=1), [calls]
    def count(*_):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    if calls is not None:
        model.final_layer.register_forward_hook(count)
    learn_briefly(model, out=out, resume=resume, iterations=5, save_every=1)

def forked(*args, **kwargs):
    child = os.fork()
    if not child:
        learned(*args, **kwargs)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

forked({killed!r}, calls=30)
forked({whole!r})
forked({killed!r}, resume=True)
"""


def test_a_killed_process_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    """Each in a process of its own, forked from one that has run nothing: what ran before in a
    process may change the last bits."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    code = FORKED.format(paths=TEST_PATHS, killed=str(killed), whole=str(whole))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(-signal.SIGKILL), "0", "0"], done.stderr
    routers = [Router.load(out / "router.safetensors") for out in (whole, killed)]
    assert np.array_equal(routers[0].logits, routers[1].logits)
    assert not list((tmp_path / "killed").glob(".*"))


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    model = toy_dit(depth=1)
    first = learn_briefly(model, out=tmp_path)
    hook = stop_after(model, 0)
    again = learn_briefly(model, out=tmp_path, resume=True)
    hook.remove()
    assert np.array_equal(first.logits, again.logits)


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    learn_briefly(toy_dit(depth=1), out=tmp_path)
    with pytest.raises(ValueError, match="begun with seed=0, now it is seed=1.*resume=False"):
        learn_briefly(toy_dit(depth=1), out=tmp_path, resume=True, seed=1)
    with pytest.raises(ValueError, match="model of other parameter names or shapes"):
        learn_briefly(toy_dit(depth=2), out=tmp_path, resume=True)


@pytest.mark.parametrize("keep", [0, 5, 100, 1400])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    model = toy_dit(depth=1)
    learn_briefly(model, out=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    content = path.read_bytes()
    assert len(content) > 1400
    path.write_bytes(content[:keep])
    with pytest.raises(ValueError, match="checkpoint.safetensors"):
        learn_briefly(model, out=tmp_path, resume=True)
