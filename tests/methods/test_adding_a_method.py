"""The method of CONTRIBUTING.md, as a reader would add it."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from toys import drive, timesteps, toy_dit

import l2c_rt as rt
from l2c_rt import methods

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_example_is_a_method_by_name_after_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 21
    module = types.ModuleType("first_then_every")
    monkeypatch.setitem(sys.modules, "first_then_every", module)
    exec(code, module.__dict__)
    line = {"first-then-every": ("FirstThenEvery", "first_then_every")}
    monkeypatch.setattr(methods, "_HOMES", {**methods._HOMES, **line})
    fast = rt.compile(toy_dit(), "first-then-every", steps=8, timesteps=timesteps(8))
    drive(fast, 8)
    assert np.flatnonzero(fast.last_run.computed[:, 0]).tolist() == [0, 1, 4, 7]
    with pytest.raises(ValueError, match="FirstThenEvery: warmup is 0"):
        methods.named("first-then-every", warmup=0)
