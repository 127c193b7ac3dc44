"""The HTTP example, called as its clients would."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from digit_clients import assert_each_gets_its_own_image

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")

from fastapi.testclient import TestClient

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_app.py"


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("fastapi_app", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with TestClient(module.app) as client:
        yield client


def test_clients_at_once_get_their_own_images(client: Any) -> None:
    assert_each_gets_its_own_image(client)


def test_errors_have_their_status(client: Any) -> None:
    assert client.get("/digit/11").status_code == 422
    assert client.get("/digit/1", params={"timeout": 1e-9}).status_code == 504
    assert client.get("/digit/1", params={"timeout": -1}).status_code == 422


def test_health_and_metrics_are_served(client: Any) -> None:
    assert client.get("/health").json() == {"serving": True}
    assert 'l2c_rt_requests_total{outcome="finished"}' in client.get("/metrics").text
