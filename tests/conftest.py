"""What holds for every test: those of a GPU are skipped, with the reason, where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from probes import Probes, probed_once
from process_state import process_state

from l2c_rt.backends.tuning.chooser import Chooser


@pytest.fixture(scope="session", autouse=True)
def _choices_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is measured in tests is remembered for the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        # Models that run their own forward are compared bit by bit: with PyTorch's own products.
        patch.setattr("l2c_rt.backends.product_chooser", lambda: Chooser("", None, None))
        yield


@pytest.fixture(scope="module")
def shared_probes() -> Iterator[None]:
    """Every model of a module is probed once, for tests that change no model that they share."""
    with probed_once(Probes()):
        yield


@pytest.fixture(autouse=True)
def _leaves_the_process_as_it_was() -> Iterator[None]:
    """A test that leaves state of the process or the thread behind fails itself, and none after
    it."""
    before = process_state()
    yield
    after = process_state()
    left = {name: (before[name], after[name]) for name in after if before[name] != after[name]}
    assert not left, f"before and after the test: {left}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU here"))
