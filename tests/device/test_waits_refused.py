"""The mode of PyTorch in which a wait for the device is an error, on a stand-in for torch.cuda."""

from __future__ import annotations

import warnings

import pytest
import torch
from gpu_runs import waits_refused


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modes that were set, by a function that warns as PyTorch's does: afterwards."""
    entered: list[str] = []

    def set_mode(mode: str) -> None:
        entered.append(mode)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: "default")
    return entered


def test_pytorchs_warning_of_the_mode_is_no_error(modes: list[str]) -> None:
    with waits_refused():
        assert modes == ["error"]
    assert modes == ["error", "default"]


def test_the_mode_ends_with_an_error_inside_or_of_the_mode_itself(
    modes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="odd"), waits_refused():
        raise ValueError("odd")
    assert modes == ["error", "default"]
    set_mode = torch.cuda.set_sync_debug_mode

    def set_and_fail(mode: str) -> None:
        set_mode(mode)
        if mode == "error":
            raise RuntimeError("an error of CUDA, found afterwards")

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_and_fail)
    with pytest.raises(RuntimeError, match="afterwards"), waits_refused():
        raise AssertionError
    assert modes[-1] == "default"
