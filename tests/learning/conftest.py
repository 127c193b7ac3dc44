"""What the tests of learning share."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of the scores take longer than a short run; test_output.py has them drawn."""
    for name in ("scores_figure", "save_figure"):
        monkeypatch.setattr(f"l2c_rt.learning.output.{name}", lambda *_, **__: None)
