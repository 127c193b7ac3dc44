"""Every family of diffusers that a tiny config builds, by the model's own forward."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers_image_families import IMAGE_FAMILIES
from diffusers_more_image_families import MORE_IMAGE_FAMILIES
from diffusers_more_video_families import MORE_VIDEO_FAMILIES
from diffusers_unet_families import UNET_FAMILIES
from diffusers_video_families import VIDEO_FAMILIES
from family_results import FAMILIES, block_result, branch_result
from family_table import COMMAND, page, tested_version

PAGE = Path(__file__).parents[3] / "docs" / "families.md"
every_family = pytest.mark.parametrize("name", FAMILIES)
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi asks for one in float32.


@every_family
def test_cut_at_its_branches_it_is_bitwise_itself_or_what_plain_hooks_give(name: str) -> None:
    result = branch_result(name)
    assert result.full
    assert result.cached
    assert result.differs
    assert result.twice
    assert result.untouched


@every_family
def test_cut_at_its_blocks_it_is_bitwise_itself_and_merging_only_rounds(name: str) -> None:
    result = block_result(name)
    assert result.full
    assert result.merged


def test_the_tables_have_every_family_once() -> None:
    tables = (IMAGE_FAMILIES, MORE_IMAGE_FAMILIES, VIDEO_FAMILIES, MORE_VIDEO_FAMILIES,
              UNET_FAMILIES)  # fmt: skip
    assert len({family.model for family in FAMILIES.values()}) == sum(map(len, tables))


def test_the_page_is_what_the_families_show() -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    text = PAGE.read_text(encoding="utf-8")
    if diffusers.__version__ != tested_version(text):
        pytest.skip(f"docs/families.md is of another diffusers than {diffusers.__version__}")
    assert text == page(), f"docs/families.md differs; write it again: {COMMAND}"
