"""docs/methods.md against what every method does."""

from __future__ import annotations

import pytest
from method_results import on_family, on_toy
from method_table import PAGE, PLANS, family_row, is_dynamic, page, toy_row

from l2c_rt import methods

TEXT = PAGE.read_text(encoding="utf-8")
pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_page_has_every_method_once() -> None:
    assert sorted(PLANS) == sorted(methods.names())


@pytest.mark.parametrize("name", methods.names())
def test_a_method_on_dit_and_uvit_is_as_the_page_says(name: str) -> None:
    assert toy_row(name) in TEXT
    assert "**nothing**" not in toy_row(name)


@pytest.mark.parametrize("name", methods.names())
def test_what_decides_runs_the_own_forward_and_nothing_runs_eager(name: str) -> None:
    for kind in ("dit", "uvit"):
        result = on_toy(name, kind, "cuda")
        assert result.reason or result.backend == ("own" if is_dynamic(name) else result.backend)


@pytest.mark.parametrize("family", ["Flux", "Wan"])
@pytest.mark.parametrize("name", methods.names())
def test_a_method_on_a_family_reuses_or_is_refused(name: str, family: str) -> None:
    result = on_family(name, family)
    assert result.cached != bool(result.reason)


def test_a_whole_model_that_no_probe_foresees_is_kept_by_its_own_name() -> None:
    """Lumina2's forward reads values, so that its first evaluation is observed."""
    result = on_family("easycache", "Lumina2")
    assert result.cached or result.reason


@pytest.mark.slow
def test_the_page_is_what_the_methods_show() -> None:
    assert family_row("fora", ["Flux"]) == "| fora | 1 of 1 |  |"
    assert page(TEXT) == TEXT, "write it again, as tests/support/method_table.py says"
