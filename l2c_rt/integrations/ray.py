"""Engines as replicas of Ray Serve, and sets of samples by Ray Data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt
import ray.data
import torch
from ray import serve
from ray.exceptions import RayActorError
from torch import Tensor

from l2c_rt.runtime.compiled import Compiled
from l2c_rt.serving.engine import Engine

Columns = Mapping[str, npt.NDArray[Any]]


class EngineReplica:
    """A replica: the engine that `build()` gives, made once, where the replica is.

    Ray asks `check_health`, and replaces a replica whose engine has ended.  Its autoscaling counts
    requests that were sent and have not come back, which are those that wait or run here.
    """

    def __init__(self, build: Callable[[], Engine]) -> None:
        self._engine = build()

    async def generate(self, **request: Any) -> Tensor:
        """`Engine.generate`, with the latents [1, C, H, W] on the CPU."""
        return (await self._engine.generate(**request)).cpu()

    def check_health(self) -> None:
        """Raises RuntimeError where the engine takes no more requests."""
        if not self._engine.serving:
            raise RuntimeError("the engine of this replica has ended")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Requests that wait and run, for an autoscaling policy of the user's."""
        stats = self._engine.stats()
        return {"waiting": float(stats.waiting), "running": float(stats.running)}

    def stats(self) -> dict[str, float]:
        """The process of the replica, and what it has done."""
        stats = self._engine.stats()
        return {"pid": os.getpid(), "finished": stats.outcomes["finished"], "ticks": stats.ticks,
                "evaluations": stats.evaluations, "reuse_share": stats.reuse_share}  # fmt: skip


def application(build: Callable[[], Engine], **options: Any) -> serve.Application:
    """An application of Ray Serve, for `serve.run`, whose replicas are engines.

    `options` are those of `serve.deployment`, such as `num_replicas`, `ray_actor_options=
    {"num_gpus": 1}` or `autoscaling_config`.  `max_ongoing_requests` should be at most the engine's
    `max_running + max_waiting`, or it refuses what Ray sends: here it is 64 where nothing is said.
    """
    options = {"max_ongoing_requests": 64, "health_check_period_s": 5.0} | options
    app: serve.Application = serve.deployment(**options)(EngineReplica).bind(build)
    return app


async def generate(handle: serve.handle.DeploymentHandle, *, retries: int = 2, **request: Any) -> (
    Tensor
):  # fmt: skip
    """The latents of one request by some replica; arguments and errors are those of `submit`.

    Where its replica dies, it is done from the start by another, at most `retries` times: latents
    are a function of the request.  After that ray's RayActorError is raised.
    """
    for left in reversed(range(retries + 1)):
        try:
            latents: Tensor = await handle.generate.remote(**request)
            return latents
        except RayActorError:
            if not left:
                raise
    raise ValueError(f"generate: retries must be at least 0, got {retries}")


class BatchSampler:
    """For `map_batches`: columns `seed` and `label` in, `latents` [n, C, H, W] besides out."""

    def __init__(self, build: Callable[[], Compiled], cfg_scale: float | None) -> None:
        self._fast, self._cfg_scale = build(), cfg_scale
        loop = self._fast.bound_model.sampling
        if loop is None:
            raise ValueError("sample_dataset: this model has no published loop")
        self._shape = (loop.channels, loop.size, loop.size)
        self._labelled = loop.classes > 0

    def __call__(self, batch: Columns) -> Columns:
        noise = torch.stack([
            torch.randn(self._shape, generator=torch.Generator().manual_seed(int(seed)))
            for seed in batch["seed"]
        ])  # fmt: skip
        labels = torch.as_tensor(batch["label"]) if self._labelled else None
        device = self._fast.bound_model.device
        latents = self._fast.sample(noise.to(device), labels, self._cfg_scale)
        return {**batch, "latents": latents.float().cpu().numpy()}


def sample_dataset(
    dataset: ray.data.Dataset,
    build: Callable[[], Compiled],
    *,
    cfg_scale: float | None = None,
    batch_size: int = 8,
    concurrency: int = 1,
    **options: Any,
) -> ray.data.Dataset:
    """A dataset of columns `seed` and `label` with `latents` [C, H, W] in float32 besides.

    `build()` compiles the model, once in each of `concurrency` actors; `options` are those of
    `Dataset.map_batches`, such as `num_gpus=1`.  The image of a seed is that of `submit(seed=)` up
    to rounding.
    """
    return dataset.map_batches(
        BatchSampler, fn_constructor_args=(build, cfg_scale), batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=concurrency), batch_format="numpy", **options,
    )  # fmt: skip
