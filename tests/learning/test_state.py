"""One step of learning: the published loss, and what it moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from soft_oracle import SoftOracle
from toy_learning import task_of, toy_latents
from toys import toy_dit, toy_uvit

from l2c_rt.learning.state import Sums, start, update
from l2c_rt.learning.workers import Workers


@pytest.mark.parametrize("toy", [toy_dit, toy_uvit])
def test_a_step_is_adamw_on_the_published_loss(toy: Any) -> None:
    model = toy()
    task = task_of(model)
    options, rules = task.options, task.rules
    state = start(task.rows.values(), task.source.costs, options)
    theta = state.logits.requires_grad_()
    optimizer = torch.optim.AdamW([theta], lr=0.1, weight_decay=0)
    total = torch.zeros(())
    with torch.no_grad():
        pairs = list(task.source.pairs(0, 0))
    naive = SoftOracle(model)
    for pair in pairs:
        weights = theta[state.rows.index(pair.row)].sigmoid()
        naive.kept = pair.previous_outputs
        student = pair.student(lambda x, t, y, w=weights: naive.mixed(x, t, y, w))
        squares = (student - pair.teacher).square()
        loss = squares.mean() if rules.name == "dit" else squares.flatten(1).sum(1).mean()
        total = total + loss + 0.01 * weights.sum()
    total.backward()
    optimizer.step()
    sums = task.source.gather(state, 0)
    update(state, sums, options, rules, Workers())
    torch.testing.assert_close(state.logits, theta.detach(), rtol=1e-4, atol=1e-5)
    assert state.error + state.penalty == pytest.approx(float(total.detach()) / len(pairs), rel=0.2)


def test_straight_through_mixes_with_zeros_and_ones_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_dit()
    task = task_of(model, straight_through=0.6)
    state = start(task.rows.values(), task.source.costs, task.options)
    [pair, *_] = task.source.pairs(0, 0)
    row = state.logits[state.rows.index(pair.row)]
    naive = SoftOracle(model)
    naive.kept = pair.previous_outputs
    hard = (row.sigmoid() > 0.6).float().requires_grad_()
    assert 0 < hard.sum() < 6
    student = pair.student(lambda x, t, y: naive.mixed(x, t, y, hard))
    loss = (student - pair.teacher).square().mean()
    loss.backward()
    monkeypatch.setattr(task.source, "pairs", lambda *_: [pair])
    sums = task.source.gather(state, 0)
    assert float(sums.error) == pytest.approx(float(loss.detach()), rel=1e-4)
    slope = sums.slope[state.rows.index(pair.row)].float()
    torch.testing.assert_close(slope, hard.grad, rtol=1e-3, atol=1e-7)
    update(state, sums, task.options, task.rules, Workers())
    moved = (state.logits[state.rows.index(pair.row)] - row).abs()
    assert bool((moved > 0).all())


def test_the_penalty_pulls_in_proportion_to_costs() -> None:
    task = task_of(toy_dit(depth=1), lam=0.5)
    state = start((4,), torch.tensor([0.5, 1.5], dtype=torch.float64), task.options)
    scores = state.logits.sigmoid()
    expected = 0.5 * float((scores * torch.tensor([0.5, 1.5])).sum())
    assert state.penalty == pytest.approx(expected)
    zero = torch.zeros((), dtype=torch.float64)
    sums = Sums(torch.zeros(1, 2, dtype=torch.float64), torch.ones(1).double(), zero)
    update(state, sums, task.options, task.rules, Workers())
    pull = state.theta[0].grad / (scores * (1 - scores))[0]
    torch.testing.assert_close(pull, 0.5 * torch.tensor([0.5, 1.5]))


def test_only_rows_that_were_met_move() -> None:
    task = task_of(toy_dit(), data=toy_latents(), lam=0.01)
    state = start(task.rows.values(), task.source.costs, task.options)
    for row in (2, 0, 2):
        before = state.logits
        slope, pairs = torch.zeros(3, 6, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        slope[row], pairs[row] = 1.0, 1.0
        sums = Sums(slope, pairs, torch.zeros((), dtype=torch.float64))
        update(state, sums, task.options, task.rules, Workers())
        # A zero slope would let AdamW's momentum move a row that was met before.
        moved = (state.logits != before).all(dim=1)
        assert moved.tolist() == [k == row for k in range(3)]
