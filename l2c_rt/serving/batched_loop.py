"""Guidance and the published solvers for a batch of requests, each at a step of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import PublishedLoop
from l2c_rt.sampling import loops
from l2c_rt.sampling.solvers import PublishedSolver
from l2c_rt.serving.request import PublishedSteps, Request

Predictions = Tensor | Sequence[Tensor]
"""Of all requests in one tensor [n, C, H, W], or of each [1, C, H, W]."""

EXACT = (torch.float32, torch.float64)
"""Arithmetic with a tensor of one number per request rounds as that with the number itself."""


class BatchedLoop:
    """All requests of a batch at once: on a CPU bit for bit what each gives by itself."""

    def __init__(self, loop: PublishedLoop, solver: PublishedSolver) -> None:
        self._loop, self._solver = loop, solver
        self._numbers = torch.from_numpy(solver.numbers())

    def predicted(self, out: Tensor, batch: Sequence[Request]) -> Predictions:
        """What the model predicts for each request, guided.

        Shapes: out [samples, ...], cond and uncond of a guided request one after another; results
        in the dtype of the request's latents.
        """
        if not _alike(batch):
            return [
                self._guided(part, request, request.cfg_scale)
                for part, request in parts(out, batch)
            ]
        first, scales = batch[0], [request.cfg_scale for request in batch]
        if scales.count(first.cfg_scale) == len(scales):
            return self._guided(out, first, first.cfg_scale)
        column = torch.tensor(scales, dtype=first.latents.dtype).view(-1, 1, 1, 1)
        return self._guided(out, first, _on_device(column, out.device))

    def moved(self, batch: Sequence[Request], predictions: Predictions) -> Sequence[Tensor]:
        """The latents of each request after this evaluation."""
        if not isinstance(predictions, Tensor):
            return [
                request.loop.update(request.step, request.latents, prediction)
                for request, prediction in zip(batch, predictions, strict=True)
            ]
        x = anchor = torch.cat([request.latents for request in batch])
        if self._solver.evaluations_per_step > 1:
            anchor = torch.cat([_anchor(request) for request in batch])
        steps = [request.step for request in batch]
        if steps.count(steps[0]) == len(steps):
            return self._solver.update(steps[0], x, predictions, anchor).chunk(len(batch))
        numbers = _on_device(
            self._numbers.index_select(0, torch.tensor(steps)).to(x.dtype), x.device
        )
        columns = numbers.view(len(steps), -1, 1, 1, 1).unbind(1)
        return self._solver.moved(columns, x, predictions, anchor).chunk(len(batch))

    def _guided(self, out: Tensor, like: Request, scale: float | Tensor) -> Tensor:
        own = out.to(like.latents.dtype)[:, : self._loop.channels]
        if like.rows == 1:
            return own
        return loops.guide(self._loop, own[0::2], own[1::2], scale)


def parts(out: Tensor, batch: Sequence[Request]) -> Iterator[tuple[Tensor, Request]]:
    """The samples of each request."""
    return zip(torch.split_with_sizes(out, [request.rows for request in batch]), batch, strict=True)


def _alike(batch: Sequence[Request]) -> bool:
    """Whether several requests have latents of one dtype, and are guided all or none."""
    first, dtype = batch[0], batch[0].latents.dtype
    return len(batch) > 1 and dtype in EXACT and all(
        request.rows == first.rows and request.latents.dtype == dtype for request in batch
    )  # fmt: skip


def _anchor(request: Request) -> Tensor:
    assert isinstance(request.loop, PublishedSteps)
    return request.loop.anchor(request.step, request.latents)


def _on_device(tensor: Tensor, device: torch.device) -> Tensor:
    # A copy from other memory would wait for the device.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
