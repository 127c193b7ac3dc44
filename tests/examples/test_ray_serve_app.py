"""The example of Ray Serve, called over HTTP."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from digit_clients import assert_each_gets_its_own_image

pytest.importorskip("ray.serve")
pytest.importorskip("httpx")

import httpx
import ray
from ray import serve

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    examples = str(ROOT / "examples")
    variables = {"PYTHONPATH": f"{ROOT}{os.pathsep}{examples}", "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        runtime_env={"env_vars": variables},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(examples)
        module: Any = importlib.import_module("ray_serve_app")
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(module.app)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client
    serve.shutdown()
    ray.shutdown()


def test_clients_at_once_get_their_own_images_from_replicas(client: Any) -> None:
    assert_each_gets_its_own_image(client)


def test_a_wrong_label_is_the_clients_error(client: Any) -> None:
    assert client.get("/digit/11").status_code == 422
