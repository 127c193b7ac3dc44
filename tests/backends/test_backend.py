"""The interface between runtime and backends: who meets which protocol, and the empty workspace."""

from __future__ import annotations

import pytest
import torch
from three_backends import BACKENDS, compiled, fresh
from toys import random_schedule, toy_dit

from l2c_rt.adapters import bind
from l2c_rt.backends.backend import OpByOp, WholeRuns, refuse_autocast
from l2c_rt.backends.reference import reference_backend
from l2c_rt.device.graphs import GraphStats
from l2c_rt.notices import L2CWarning


def test_a_workspace_that_runs_op_by_op_keeps_nothing() -> None:
    workspace = reference_backend(bind(toy_dit())).workspace(fresh().plan)
    assert isinstance(workspace, OpByOp)
    workspace.drop_tables()
    assert workspace.nbytes == 0
    assert workspace.graph_stats == GraphStats()
    assert list(workspace.step_seconds()) == []


@pytest.mark.parametrize(("backend", "whole"), [("reference", False), ("fused", False),
                                                ("cuda", True)])  # fmt: skip
def test_only_the_cuda_backend_has_whole_runs(backend: str, whole: bool) -> None:
    fast = fresh(backend)
    assert isinstance(fast.backend.workspace(fast.plan), WholeRuns) is whole


@pytest.mark.parametrize(("backend", "extra"), [("reference", 0), ("fused", 0), ("cuda", 1)])
def test_slots_are_the_plans_and_those_that_the_backend_asks_for(backend: str, extra: int) -> None:
    fast = fresh(backend)
    assert fast._shared.version.num_slots == fast.plan.num_slots + extra


def test_autocast_is_refused_for_its_own_device_only() -> None:
    refuse_autocast("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        refuse_autocast("cuda")
        with pytest.raises(ValueError, match='cast the model, as in model.to.*backend="reference"'):
            refuse_autocast("cpu")


def test_a_backends_reasons_and_the_models_notes_are_in_the_summary() -> None:
    model = toy_dit()
    model.blocks[0].register_forward_hook(lambda *_: None)
    with pytest.warns(L2CWarning, match="forward hooks on DiTBlock"):
        fast, other = (compiled(name, model, random_schedule(2, 6)) for name in BACKENDS[::2])
    assert other.summary().reasons == fast.summary().reasons
    assert "forward hooks on DiTBlock are not called" in fast.summary().reasons[0]
