"""An HTTP service over an engine: the shipped digits model, one image a request.

    pip install 'l2c_rt[demo,serving]' fastapi uvicorn
    uvicorn --app-dir examples fastapi_app:app
    curl 'localhost:8000/digit/7?seed=3'

The engine belongs to the process: one per replica, made at its start.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request, Response
from prometheus_client import CollectorRegistry, generate_latest

import l2c_rt as rt
from l2c_rt.demo.run import load_demo_model, load_demo_router
from l2c_rt.integrations.prometheus import watch
from l2c_rt.serving.request import DeadlineError, QueueFullError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Requests taken on before the end are served before it."""
    fast = rt.compile(load_demo_model(), load_demo_router(20), backend="fused")
    with rt.Engine(fast, max_batch=8, max_waiting=64, example={"seed": 0, "y": 0}) as engine:
        app.state.engine, app.state.registry = engine, CollectorRegistry()
        watch(engine, app.state.registry)
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/digit/{label}")
async def digit(
    request: Request, label: int, seed: int = 0, timeout: Annotated[float, Query(gt=0)] = 60.0
) -> list[list[float]]:
    """One image as 8 rows of 8 values in [-1, 1]; 503 where too many wait, 504 after `timeout`."""
    try:
        latents = await request.app.state.engine.generate(seed=seed, y=label, deadline=timeout)
    except QueueFullError as error:
        raise HTTPException(503, str(error), headers={"Retry-After": "1"}) from error
    except DeadlineError as error:
        raise HTTPException(504, str(error)) from error
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    rows: list[list[float]] = latents[0, 0].clamp(-1, 1).tolist()
    return rows


@app.get("/health")
def health(request: Request) -> dict[str, bool]:
    """200 while the engine takes requests."""
    if not request.app.state.engine.serving:
        raise HTTPException(503, "the engine is shut down")
    return {"serving": True}


@app.get("/metrics")
def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(generate_latest(request.app.state.registry), media_type="text/plain")
