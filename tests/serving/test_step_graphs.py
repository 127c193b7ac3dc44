"""Graphs of batches, on tapes: one per kind and bucket, and the same latents as without."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
import torch
from published_outputs import relative
from served import STEPS, all_equal, at_ticks, compiled, image, solo
from taped_graphs import Tape, TapeRecorder
from torch import Tensor

import l2c_rt as rt
from l2c_rt.serving import evaluator
from l2c_rt.serving.step_graphs import StepGraphs

BOUND = 2e-5
SCALES = (None, 0.0, 2.0)


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> list[TapeRecorder]:
    """Engines on tapes, and their recorders."""
    recorders: list[TapeRecorder] = []

    def recorder_for(device: torch.device) -> TapeRecorder:
        recorders.append(TapeRecorder(device))
        return recorders[-1]

    monkeypatch.setattr(evaluator, "recorder_for", recorder_for)
    return recorders


def graphs_of(engine: rt.Engine) -> StepGraphs:
    graphs = engine._worker.evaluator.graphs
    assert graphs is not None
    return graphs


def served(engine: rt.Engine) -> list[Future[Tensor]]:
    """Requests of all scales that arrive at different steps of another run."""

    def submit(i: int) -> Future[Tensor]:
        return engine.submit(image(i), i % 10, cfg_scale=SCALES[i % 3])

    first, futures = at_ticks(engine, [0, 0, 1, 2, 2, 4, 5], submit)
    return [first, *futures]


@pytest.mark.parametrize("model", ["DiT", "U-ViT"])
def test_batches_by_graphs_are_solo_runs_up_to_rounding(
    model: str, taped: list[TapeRecorder]
) -> None:
    fast = compiled(model)
    with rt.Engine(fast, max_batch=4) as engine:
        served(engine)
        futures = served(engine)
        stats, graphs = engine.stats(), graphs_of(engine)
        assert len(stats.batch_sizes) > 1
        # All but the evaluation that was compared with the model's own.
        assert graphs.replays == stats.ticks - 1
        assert not graphs.reasons
        assert graphs.count == taped[0].taped < graphs.replays
    for i, future in enumerate(futures[1:]):
        expected = solo(fast, i, i % 10, cfg_scale=SCALES[i % 3])
        assert relative(future.result(0), expected) < BOUND


def test_one_request_by_graphs_is_bitwise_a_run_of_sample(taped: list[TapeRecorder]) -> None:
    fast = compiled()
    with rt.Engine(fast) as engine:
        for seed in range(4):
            out = engine.submit(image(seed), seed).result(60)
            assert torch.equal(out, solo(fast, seed, seed))
        kinds = len(set(engine._worker.evaluator.kinds))
        assert graphs_of(engine).count == kinds
        assert graphs_of(engine).replays == 4 * STEPS - 1


def test_with_an_example_no_request_waits_for_a_capture(taped: list[TapeRecorder]) -> None:
    with rt.Engine(compiled(), max_batch=4, example={"seed": 0, "y": 3}) as engine:
        kinds = len(set(engine._worker.evaluator.kinds))
        # Of 1, 2 and 4 requests, two samples each.
        assert graphs_of(engine).count == 3 * kinds
        _, futures = at_ticks(engine, [0, 0, 1, 2], lambda i: engine.submit(image(i), i))
        assert all(future.done() for future in futures)
        assert graphs_of(engine).count == 3 * kinds


def test_samples_that_fill_a_batch_touch_nobodys_slots(taped: list[TapeRecorder]) -> None:
    """Three samples in a bucket of four, NaN in every slot before."""
    fast = compiled()
    with rt.Engine(fast, max_running=2) as engine:
        engine.submit(image(9), 9).result(60)
        engine._worker.evaluator.poison()
        _, futures = at_ticks(
            engine, [0, 0],
            lambda i: engine.submit(image(i), i, cfg_scale=0.0 if i else None),
        )  # fmt: skip
        for i, future in enumerate(futures):
            expected = solo(fast, i, i, cfg_scale=0.0 if i else None)
            assert relative(future.result(0), expected) < BOUND


def test_changed_weights_are_seen_and_captured_anew(taped: list[TapeRecorder]) -> None:
    fast = compiled()
    model: Any = fast.bound_model.model
    with rt.Engine(fast) as engine:
        before = engine.submit(image(0), 3).result(60)
        with torch.no_grad():
            model.blocks[0].mlp.fc1.weight = torch.nn.Parameter(
                model.blocks[0].mlp.fc1.weight * 0.5
            )
        for _ in range(2):
            after = engine.submit(image(0), 3).result(60)
            assert torch.equal(after, solo(fast, 0, 3))
        assert not torch.equal(after, before)
    assert len(taped) == 2


def test_what_cannot_be_captured_is_served_without(
    taped: list[TapeRecorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: TapeRecorder, work: Any) -> Tape:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(TapeRecorder, "capture", fail)
    fast = compiled()
    with rt.Engine(fast) as engine:
        outs = [engine.submit(image(i), i).result(60) for i in range(2)]
        assert "not permitted" in next(iter(graphs_of(engine).reasons))
        assert graphs_of(engine).count == 0
    assert all(torch.equal(out, solo(fast, i, i)) for i, out in enumerate(outs))


def test_the_same_arrivals_give_the_same_bits_by_graphs(taped: list[TapeRecorder]) -> None:
    runs = []
    for _ in range(2):
        with rt.Engine(compiled()) as engine:
            runs.append(served(engine))
    assert all_equal(*runs)


@pytest.mark.gpu
def test_on_a_gpu_batches_by_graphs_are_solo_runs_up_to_rounding() -> None:
    model: Any = compiled().bound_model.model.cuda()
    fast = rt.compile(model, rt.policies.EveryN(2), steps=STEPS, backend="reference")
    with rt.Engine(fast, max_batch=4) as engine:
        for _ in range(3):
            futures = [engine.submit(image(i).cuda(), i, cfg_scale=SCALES[i % 3]) for i in range(9)]
            for i, future in enumerate(futures):
                expected = fast.sample(image(i).cuda(), [i], cfg_scale=SCALES[i % 3])
                assert relative(future.result(60), expected) < 1e-4
        graphs = graphs_of(engine)
        assert not graphs.reasons
        assert 0 < graphs.count < graphs.replays
