"""The memory of models that run their own forward, before the first request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import pytest
import torch
from block_models import WIDTH, TwoStreams, built
from served import compiled, image

import l2c_rt as rt
from l2c_rt.serving.batched_loop import Predictions
from l2c_rt.serving.evaluator import Evaluator
from l2c_rt.serving.request import Request

STEPS = 8
METHODS: dict[str, Any] = {
    "FORA": rt.methods.FORA(cache_threshold=3),
    "TaylorSeer": rt.methods.TaylorSeer(interval=3, max_order=2),
}


def request(seed: int, tokens: int = 6) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "noise": torch.randn(1, tokens, WIDTH, generator=generator),
        "inputs": {"text": torch.randn(1, 3, WIDTH, generator=generator)},
        "null_inputs": {"text": torch.zeros(1, 3, WIDTH)}, "cfg_scale": 2.0,
    }  # fmt: skip


def engine(method: str, **options: Any) -> rt.Engine:
    solver = diffusers.DDIMScheduler()
    solver.set_timesteps(STEPS)
    fast = rt.compile(built(TwoStreams), METHODS[method], timesteps=solver.timesteps.tolist())
    return rt.Engine(fast, solver=solver, **options)


@pytest.mark.parametrize("method", METHODS)
def test_with_an_example_all_memory_is_taken_before_the_first_request(method: str) -> None:
    with engine(method) as plain, engine(method, example=request(0)) as shown:
        assert plain.nbytes == 0
        before = shown.nbytes
        assert shown.stats().evaluations == shown.stats().ticks == 0
        for seed in (1, 2):
            out = shown.submit(**request(seed)).result(60)
            assert torch.equal(out, plain.submit(**request(seed)).result(60))
        assert shown.nbytes == plain.nbytes == before > 0


def test_an_example_that_is_no_request_is_refused_as_by_submit() -> None:
    with pytest.raises(ValueError, match=r"one image, noise and inputs \[1, ...\]"):
        engine("FORA", example=request(0) | {"noise": torch.zeros(2, 6, WIDTH)})
    with pytest.raises(TypeError, match=r"steps"):
        engine("FORA", example={"steps": 3})


def test_an_example_of_a_published_loop_changes_nothing() -> None:
    fast = compiled()
    with rt.Engine(fast, example={"seed": 0, "y": 3}) as engine:
        engine._worker.evaluator.poison()
        assert torch.equal(engine.submit(image(1), 3).result(60), fast.sample(image(1), [3]))


def test_an_example_is_evaluated_in_batches_of_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[tuple[int, int]] = []
    predict = Evaluator.predictions

    def noted(self: Evaluator, batch: Sequence[Request]) -> Predictions:
        batches.append((len(batch), batch[0].kind))
        assert {request.place for request in batch} == set(range(len(batch)))
        return predict(self, batch)

    monkeypatch.setattr(Evaluator, "predictions", noted)
    with rt.Engine(compiled("DiT", "fused"), max_batch=3, example={"seed": 0, "y": 3}) as engine:
        kinds = set(engine._worker.evaluator.kinds)
    assert {kind for size, kind in batches if size == 1} == kinds
    # The first kind computes everything, so that there is nothing else to measure.
    assert {size for size, kind in batches if kind == 0} == {1, 2, 3}
