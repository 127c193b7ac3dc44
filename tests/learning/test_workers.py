"""Several processes learn one router."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_learning import TEST_PATHS, learn_briefly, task_of
from toys import toy_dit

from l2c_rt.learning.penalty import shifted_to_share
from l2c_rt.learning.state import Sums, start, update
from l2c_rt.learning.workers import Workers
from l2c_rt.policies.router import Router

pytest.importorskip("matplotlib", reason="the plot extra is not installed")

TORCHRUN = """
import os, sys
sys.modules["matplotlib"] = None  # Without pictures, which take longer.
sys.path[:0] = {paths!r}
import torch.distributed as dist
from toy_learning import learn_briefly
from toys import toy_dit
router = learn_briefly(toy_dit(depth=1), out={out!r}, **{options!r})
assert not dist.is_initialized()
router.save({out!r} + "/of-rank-" + os.environ["RANK"] + ".safetensors")
"""


def torchrun(tmp_path: Path, **options: Any) -> list[Router]:
    script = tmp_path / "script.py"
    script.write_text(TORCHRUN.format(paths=TEST_PATHS, out=str(tmp_path), options=options))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "2", str(script)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [Router.load(tmp_path / f"of-rank-{rank}.safetensors") for rank in range(2)]


def test_two_processes_learn_one_router_from_both_their_batches(tmp_path: Path) -> None:
    routers = torchrun(tmp_path, iterations=3)
    assert np.array_equal(routers[0].logits, routers[1].logits)
    assert json.loads(routers[0].training)["processes"] == 2
    # The same in one process: both batches' pairs, slopes averaged.
    task = task_of(toy_dit(depth=1), iterations=3, batch_size=4, lam=None, reuse=0.45, lr=None)
    state = start(task.rows.values(), task.source.costs, task.options)
    for iteration in range(3):
        assert state.iteration == iteration
        each = [task.source.gather(state, rank) for rank in range(2)]
        sums = Sums(each[0].slope + each[1].slope, each[0].pairs + each[1].pairs,
                    each[0].error + each[1].error)  # fmt: skip
        update(state, sums, task.options, task.rules, Workers(0, 2))
    wanted, _ = shifted_to_share(state.learned(task.options).numpy(), 0.45, 0.1)
    np.testing.assert_allclose(routers[0].logits[list(state.rows)], wanted, atol=1e-4)
    alone = learn_briefly(toy_dit(depth=1), iterations=3)
    assert not np.array_equal(alone.logits, routers[0].logits)
