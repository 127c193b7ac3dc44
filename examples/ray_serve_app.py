"""An HTTP service over replicas of an engine, by Ray Serve: the shipped digits model.

    pip install 'l2c_rt[demo,ray]'
    serve run --app-dir examples ray_serve_app:app
    curl 'localhost:8000/digit/7?seed=3'

Each replica loads the model once; on GPUs give `application` ray_actor_options={"num_gpus": 1}.
"""

from __future__ import annotations

from fastapi import FastAPI, HTTPException
from ray import serve

import l2c_rt as rt
from l2c_rt.demo.run import load_demo_model, load_demo_router
from l2c_rt.integrations.ray import application, generate

http = FastAPI()


def build() -> rt.Engine:
    """In the replica."""
    fast = rt.compile(load_demo_model(), load_demo_router(20), backend="fused")
    return rt.Engine(fast, max_batch=8, max_waiting=64, example={"seed": 0, "y": 0})


@serve.deployment
@serve.ingress(http)
class Front:
    """Hands each request to a replica, and to another where that one dies."""

    def __init__(self, engines: serve.handle.DeploymentHandle) -> None:
        self._engines = engines

    @http.get("/digit/{label}")
    async def digit(self, label: int, seed: int = 0) -> list[list[float]]:
        """One image as 8 rows of 8 values in [-1, 1]."""
        try:
            latents = await generate(self._engines, seed=seed, y=label)
        except ValueError as error:
            raise HTTPException(422, "no such digit") from error
        rows: list[list[float]] = latents[0, 0].clamp(-1, 1).tolist()
        return rows


app = Front.bind(
    application(
        build,
        max_ongoing_requests=64,
        autoscaling_config={"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 16},
    )
)
