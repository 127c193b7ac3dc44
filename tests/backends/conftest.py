"""Recorded runs are shared by the tests of this folder, and given back after them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from recorded_runs import recorded


@pytest.fixture(scope="package", autouse=True)
def _forget_recorded_runs() -> Iterator[None]:
    yield
    recorded.cache_clear()
