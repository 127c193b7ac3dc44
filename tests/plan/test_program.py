"""Programs that cannot be planned are refused."""

from __future__ import annotations

import pytest

from l2c_rt.plan.program import BlockProgram, Fixed


def test_a_program_needs_unique_names_and_a_branch() -> None:
    with pytest.raises(ValueError, match="must be unique, got \\['embed'\\]"):
        BlockProgram("dit", (Fixed("embed"), Fixed("embed")), 1, 1)
    with pytest.raises(ValueError, match="has no branch"):
        BlockProgram("dit", (Fixed("embed"),), 1, 1)
