"""Guidance and solver of a batch at once, against each request by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from served import STEPS, compiled
from torch import Tensor

from l2c_rt.runtime.sample import published_solver
from l2c_rt.serving.alarm import Alarm
from l2c_rt.serving.batched_loop import BatchedLoop
from l2c_rt.serving.intake import Asked, PublishedIntake, Start
from l2c_rt.serving.request import Request, RequestFuture

Asking = tuple[int, float | None, torch.dtype]
"""Step, scale and dtype of a request."""


def request_of(start: Start, step: int, anchor: Tensor) -> Request:
    # The anchor is that of the step before, where this one does not begin a solver step.
    start.loop.update(0, anchor, anchor)
    return Request(
        future=RequestFuture(Alarm()), loop=start.loop, latents=start.latents, labels=start.labels,
        inputs=(), rows=start.rows, cfg_scale=start.cfg_scale, callback=None, submitted=0.0,
        expires=None, step=step,
    )  # fmt: skip


@pytest.mark.parametrize("model", ["DiT", "U-ViT"])
@settings(deadline=None)
@given(
    asked=st.lists(
        st.tuples(st.integers(0, STEPS - 1), st.sampled_from((None, 0.0, 2.0, 3.7)),
                  st.sampled_from((torch.float32, torch.float64, torch.bfloat16))),
        min_size=1, max_size=5,
    ),
    one_dtype=st.booleans(),
)  # fmt: skip
def test_a_batch_is_bitwise_what_its_requests_are_by_themselves(
    model: str, asked: list[Asking], one_dtype: bool
) -> None:
    shared = compiled(model).run.shared
    intake, draw = PublishedIntake(shared), torch.Generator().manual_seed(0)
    version = shared.version.model
    loop = version.checked_loop
    assert loop is not None
    batched = BatchedLoop(loop, published_solver(version, shared.schedule, shared.loop))

    def batch() -> list[Request]:
        draw.manual_seed(1)
        requests = []
        for step, scale, dtype in asked:
            noise, anchor = torch.randn(2, 1, 4, 8, 8, generator=draw).to(
                asked[0][2] if one_dtype else dtype
            )
            requests.append(request_of(intake.start(Asked(noise, 3, None, scale)), step, anchor))
        return requests

    together = batch()
    out = torch.randn(sum(r.rows for r in together), 8, 8, 8, generator=draw)
    predictions = batched.predicted(out, together)
    moved = batched.moved(together, predictions)
    row = 0
    for request, prediction, latents in zip(batch(), predictions, moved, strict=True):
        (own,) = batched.predicted(out[row : row + request.rows], [request])
        row += request.rows
        assert torch.equal(prediction.view_as(own), own)
        alone = request.loop.update(request.step, request.latents, own)
        assert latents.dtype == alone.dtype
        assert torch.equal(latents, alone)
