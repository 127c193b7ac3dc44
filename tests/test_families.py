"""The published facts of each family, spelled out, and the lookup by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from l2c_rt.families import (
    DIT,
    FAMILIES,
    UVIT,
    Family,
    cached_evaluations,
    display_name,
    family_named,
)


def test_the_published_facts_are_spelled_out() -> None:
    assert (DIT.sampler, DIT.calls_per_step, DIT.threshold, DIT.cfg_scale) == ("ddim", 1, 0.1, 4.0)
    assert (DIT.loss, DIT.clamp) == ("mean", 5.0)
    loop = (UVIT.sampler, UVIT.calls_per_step, UVIT.threshold, UVIT.cfg_scale)
    assert loop == ("dpm-solver", 2, 0.9, 0.4)
    assert (UVIT.loss, UVIT.clamp) == ("sum per sample", None)


def test_evaluations_that_may_be_cached() -> None:
    assert cached_evaluations(6) == cached_evaluations(6, "dit") == (1, 3, 5)
    assert cached_evaluations(7, "dit") == (2, 4, 6)
    assert cached_evaluations(7) == (1, 3, 5)
    assert cached_evaluations(8, "uvit") == (2, 4, 6)
    with pytest.raises(ValueError, match="family is 'vit', wanted one of dit, uvit"):
        cached_evaluations(8, "vit")


def test_rows_of_a_router_count_from_the_clean_end_in_dit_and_per_solver_step_in_uvit() -> None:
    assert DIT.valid_rows(6) == {1: 4, 3: 2, 5: 0}
    assert DIT.valid_rows(7) == {2: 4, 4: 2, 6: 0}
    assert UVIT.valid_rows(8) == {2: 1, 4: 2, 6: 3}


@pytest.mark.parametrize("family", FAMILIES.values())
@pytest.mark.parametrize("steps", range(2, 60, 2))
def test_every_row_lies_in_the_smallest_router_and_the_first_evaluation_has_none(
    family: Family, steps: int
) -> None:
    rows = family.valid_rows(steps)
    assert 0 not in rows
    assert list(rows) == sorted(rows)
    assert len(set(rows.values())) == len(rows)
    assert all(0 <= row < family.router_rows(steps) for row in rows.values())


@pytest.mark.parametrize("family", FAMILIES.values())
@pytest.mark.parametrize("scale", [0.4, 1.0, 4.0])
def test_guidance_from_either_base_is_one_formula_from_uncond(family: Family, scale: float) -> None:
    cond, uncond = 3.0, 2.0
    guidance = family.guidance
    base = cond if guidance.base == "cond" else uncond
    same = uncond + guidance.scale_from_uncond(scale) * (cond - uncond)
    assert base + scale * (cond - uncond) == pytest.approx(same)
    assert base + guidance.neutral * (cond - uncond) == cond


def test_a_name_that_is_no_family_lists_the_known_ones() -> None:
    assert family_named("uvit") is UVIT
    with pytest.raises(ValueError, match="family is 'sdxl', wanted one of dit, uvit"):
        family_named("sdxl")


def test_readers_see_the_papers_names() -> None:
    assert [display_name(name) for name in ("dit", "uvit", "ddim", "dpm-solver", "euler")] == [
        "DiT", "U-ViT", "DDIM", "DPM-Solver", "euler",
    ]  # fmt: skip


@pytest.mark.parametrize("module", ["l2c_rt.families", "l2c_rt.sampling.solvers"])
def test_families_and_solvers_import_without_torch(module: str) -> None:
    code = f"import sys; import {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
