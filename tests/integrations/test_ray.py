"""Replicas of Ray Serve on this machine, one of which is killed, and a dataset of Ray Data."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from published_outputs import relative
from served import STEPS, compiled, image, solo
from torch import Tensor

import l2c_rt as rt

pytest.importorskip("ray.data")
pytest.importorskip("ray.serve")

import ray
from ray import serve
from ray.exceptions import RayActorError

from l2c_rt.integrations.ray import EngineReplica, application, generate, sample_dataset

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
BOUND = 2e-5


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support", ROOT / "bench")))
    variables = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        runtime_env={"env_vars": variables},
    )  # fmt: skip
    yield
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="module")
def handle(cluster: None) -> Any:
    def build() -> rt.Engine:
        return rt.Engine(compiled(), max_batch=4)

    return serve.run(application(build, num_replicas=2), route_prefix=None)


def visits(folder: Path) -> Callable[[int, Tensor], None]:
    """A callback that leaves the process's number."""

    def callback(step: int, latents: Tensor) -> None:
        (folder / str(os.getpid())).touch()

    return callback


def test_two_replicas_serve_what_solo_runs_give(handle: Any, tmp_path: Path) -> None:
    callback = visits(tmp_path)

    async def all_of_them() -> list[Tensor]:
        return await asyncio.gather(*(
            generate(handle, noise=image(i), y=i % 10, callback=callback) for i in range(24)
        ))  # fmt: skip

    fast = compiled()
    for i, latents in enumerate(asyncio.run(all_of_them())):
        assert relative(latents, solo(fast, i, i % 10)) < BOUND
    pids = {int(path.name) for path in tmp_path.iterdir()}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_what_a_killed_replica_had_begun_is_done_by_another(handle: Any, tmp_path: Path) -> None:
    def die_once(step: int, latents: Tensor) -> None:
        if step == STEPS // 2 and not (tmp_path / "dead").exists():
            (tmp_path / "dead").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)

    async def all_of_them() -> list[Tensor]:
        first = generate(handle, noise=image(0), y=0, callback=die_once)
        others = (generate(handle, noise=image(i), y=i) for i in range(1, 10))
        return await asyncio.gather(first, *others)

    fast = compiled()
    for i, latents in enumerate(asyncio.run(all_of_them())):
        assert relative(latents, solo(fast, i, i)) < BOUND
    print("killed", (tmp_path / "dead").read_text(), "- ten of ten requests done")


def test_without_retries_the_death_of_a_replica_is_an_error(handle: Any, tmp_path: Path) -> None:
    def die(step: int, latents: Tensor) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def one() -> Tensor:
        return await generate(handle, retries=0, noise=image(0), y=0, callback=die)

    with pytest.raises(RayActorError):
        asyncio.run(one())


def test_an_error_of_the_request_is_not_tried_again(handle: Any, tmp_path: Path) -> None:
    async def wrong() -> Tensor:
        return await generate(handle, seed=0, y=99)

    with pytest.raises(ValueError, match=r"this model has 0 to 9"):
        asyncio.run(wrong())


def test_replicas_say_how_long_their_queue_is_and_whether_they_are_well(handle: Any) -> None:
    stats = handle.stats.remote().result(timeout_s=60)
    assert stats["finished"] >= 0
    assert handle.record_autoscaling_stats.remote().result(timeout_s=60) == {
        "waiting": 0.0, "running": 0.0
    }  # fmt: skip
    assert handle.check_health.remote().result(timeout_s=60) is None


def test_a_replica_whose_engine_has_ended_is_not_well() -> None:
    engine = rt.Engine(compiled())
    replica = EngineReplica(lambda: engine)
    replica.check_health()
    engine.shutdown()
    with pytest.raises(RuntimeError, match="has ended"):
        replica.check_health()


def test_a_dataset_of_seeds_becomes_one_of_latents(cluster: None) -> None:
    def build() -> rt.Compiled:
        return compiled()

    dataset = ray.data.from_items([{"seed": i, "label": i % 10} for i in range(20)])
    rows = sample_dataset(dataset, build, batch_size=4, concurrency=2).take_all()
    assert sorted(row["seed"] for row in rows) == list(range(20))
    fast = compiled()
    for row in rows:
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(row["seed"]))
        latents = torch.tensor(row["latents"])[None]
        assert relative(latents, fast.sample(noise, [row["label"]])) < BOUND
