"""Every method on a GPU: as the reference decides and computes, and by graphs as without."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from method_results import CALIBRATED, SMALL, STEPS, STEPS_OF, TOYS
from published_outputs import relative
from toys import call_inputs

import l2c_rt as rt
from l2c_rt.policies import Full

pytestmark = pytest.mark.gpu


def compiled(name: str, model: Any, times: list[float], **options: Any) -> Any:
    loop = {"steps": len(times), "timesteps": times}
    branches: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    if name in CALIBRATED:
        full = rt.compile(model, Full(), granularity=CALIBRATED[name], **loop)
        program = full.bound_model.program
        branches, kinds = program.branch_names, tuple({b.kind for b in program.branches})
    return rt.compile(model, SMALL[name](branches, kinds), **loop, **options)


def run(fast: Any, times: list[float], device: str) -> tuple[list[torch.Tensor], np.ndarray]:
    """The outputs of a run, and what each branch did in it."""
    outputs = []
    for step, t in enumerate(times):
        x, _, y = call_inputs(step)
        x = torch.cat([x[:1], x[:1]]).to(device)
        with torch.no_grad():
            out = fast(x, torch.full((2,), t, device=device), y.to(device))
        outputs.append(out.cpu().clone())
    return outputs, fast.last_run.acts.copy()


@pytest.mark.filterwarnings("ignore::l2c_rt.notices.L2CWarning")
@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_method_does_on_a_gpu_what_it_does_on_a_cpu(name: str, kind: str) -> None:
    steps = STEPS_OF.get(name, STEPS)
    times = [float(round(900 - 800 * step / (steps - 1))) for step in range(steps)]
    model = copy.deepcopy(TOYS[kind]).cuda()
    try:
        on_cpu = compiled(name, TOYS[kind], times, pack=False)
    except (ValueError, TypeError) as error:
        pytest.skip(f"the model does not carry it, on no device: {error}"[:200])
    expected, acts = run(on_cpu, times, "cpu")
    by_kernel = compiled(name, model, times, tune=False, graph="off")
    one_by_one, acts_by_kernel = run(by_kernel, times, "cuda")
    assert (acts_by_kernel == acts).all()
    for step, (ours, theirs) in enumerate(zip(one_by_one, expected, strict=True)):
        assert relative(ours, theirs) < 1e-3, step
    fast = compiled(name, model, times, tune=False)
    for _ in range(3):
        replayed, acts_replayed = run(fast, times, "cuda")
        assert (acts_replayed == acts).all()
        assert all(torch.equal(a, b) for a, b in zip(replayed, one_by_one, strict=True))
    graphs = fast.summary().graphs
    print(f"{name} on {kind}: {fast.backend.name}, {graphs}")
    assert graphs.graphs > 0 or graphs.reasons
