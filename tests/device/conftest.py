"""torch.cuda as a stand-in that logs what is done."""

from __future__ import annotations

import pytest
from fake_torch_cuda import FakeCuda, stand_in_for_cuda


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return stand_in_for_cuda(monkeypatch)
