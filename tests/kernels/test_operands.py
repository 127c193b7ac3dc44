"""The tables that a solver becomes on the device."""

from __future__ import annotations

import pytest
import torch

from l2c_rt.kernels.operands import dpm_solver_coefficients
from l2c_rt.sampling.solvers import dpm_solver


def test_the_table_of_dpm_solver_walks_the_same_path() -> None:
    solver = dpm_solver(6)
    table = dpm_solver_coefficients(solver.alpha, solver.sigma, solver.keep, solver.weight, 1.4)
    x, eps = torch.tensor([0.3, -1.0]), torch.tensor([0.7, 0.2])
    ours, theirs, anchor, saved = x, x, x, x
    for e, (a, b, c, save, scale) in enumerate(table[:, :5].tolist()):
        assert scale == pytest.approx(1.4)
        if e % 2 == 0:
            anchor = theirs
        clean = (theirs - solver.sigma[e] * eps) / solver.alpha[e]
        theirs = solver.keep[e] * anchor + solver.weight[e] * clean
        before, saved = saved, ours if save else saved
        ours = a * ours + b * eps + c * before
        assert torch.allclose(ours, theirs.float(), atol=1e-5)
