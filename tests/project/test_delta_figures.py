"""The table of the delta form in docs/how-it-works.md is what the published schedules give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from table import delta_rows

from l2c_rt import presets
from l2c_rt.families import UVIT
from l2c_rt.plan.build import build_plan
from l2c_rt.plan.delta import delta_evaluations, in_delta_form, is_delta, products
from l2c_rt.plan.ops import reuses
from l2c_rt.plan.published import published_program

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-it-works.md").read_text()


@pytest.mark.parametrize("preset", ["l2c/uvit-h-2-256/dpm-50", "l2c/uvit-h-2-256/dpm-20"])
def test_the_table_of_the_delta_form_is_what_the_schedules_give(preset: str) -> None:
    program = published_program(UVIT, UVIT.published)
    plan = build_plan(program, presets.load(preset))
    delta = in_delta_form(plan, program)
    cached = [s for s in range(plan.num_evaluations) if reuses(plan.at(s))]
    all_products = 2 * sum(node.role == "skip_linear" for node in program.fixed_of.values())
    counts = [products(step) if is_delta(step) else all_products for step in map(delta.at, cached)]
    row = (
        f"| {preset} | {len(cached)} | {delta_evaluations(delta)} | {sum(counts)} of "
        f"{all_products * len(cached)} | {delta.num_slots} of {plan.num_slots} |"
    )
    assert row in PAGE


def test_its_times_on_a_cpu_are_those_of_the_file() -> None:
    results = json.loads((ROOT / "bench" / "results" / "delta-form.json").read_text())
    assert "\n".join(delta_rows(results)) in PAGE
