from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from drawn_texts import misplaced_texts
from toys import noise, toy_dit

import l2c_rt as rt
from l2c_rt import presets
from l2c_rt.runtime.last_run import Act
from l2c_rt.schedule.cache_schedule import CacheSchedule, default_branches
from l2c_rt.schedule.cells import Cells
from l2c_rt.schedule.heatmap import COLOURS, PASSED, REUSED, figure
from l2c_rt.schedule.predictions import Predictions
from l2c_rt.schedule.tokens import TokenRule, TokenSchedule

pytest.importorskip("matplotlib")


def pixels(path) -> np.ndarray:
    from matplotlib.image import imread

    return np.rint(255 * imread(path)[..., :3]).astype(int)


def share_of(colour: str, image: np.ndarray) -> float:
    rgb = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return float((np.abs(image - rgb).max(axis=-1) <= 2).mean())


def test_the_picture_shows_full_computed_and_reused_cells_of_both_kinds(tmp_path):
    presets.load("l2c/dit-xl-2-256/ddim-50").plot(tmp_path / "s.png")
    image = pixels(tmp_path / "s.png")
    assert image.shape[1] > 1_000
    for colours in COLOURS[:2]:
        for colour in colours:
            assert share_of(colour, image) > 0.01
    assert share_of(REUSED, image) > 0.05
    assert share_of(COLOURS[2][0], image) == 0


def test_the_axes_count_blocks_downwards_and_evaluations_to_the_right():
    compute = np.ones((4, 8), bool)
    compute[1, [0, 7]] = False
    attn, mlp, shares = figure(fields_of(compute, default_branches(8))).axes
    for panel, block in ((attn, 0), (mlp, 3)):
        [image] = panel.images
        assert np.argwhere(np.asarray(image.get_array()) == 0).tolist() == [[block, 1]]
        assert tuple(image.get_extent()) == (-0.5, 3.5, 3.5, -0.5)
        assert panel.get_ylim() == (3.5, -0.5)
    tops = [bar.get_y() + bar.get_height() for bar in shares.patches[4:]]
    assert tops == pytest.approx([100, 75, 100, 100])


def test_noisy_is_left_and_the_first_block_on_top(tmp_path):
    compute = np.ones((4, 8), bool)
    compute[1, 0] = False
    CacheSchedule(compute).plot(tmp_path / "s.png")
    image = pixels(tmp_path / "s.png")
    grey = [int(REUSED[k : k + 2], 16) for k in (1, 3, 5)]
    rows, columns = np.nonzero(np.abs(image - grey).max(axis=-1) == 0)
    panel = rows < 0.5 * len(image)
    assert 0.25 < np.median(columns[panel]) / image.shape[1] < 0.5
    assert np.median(rows[panel]) < 0.25 * len(image)


def fields_of(compute: np.ndarray, branches: tuple[str, ...], source: str = "") -> dict:
    return {"compute": compute, "branches": branches, "family": "dit", "sampler": "ddim",
            "source": source}  # fmt: skip


def test_attention_and_mlp_keep_their_colours_beside_a_third_kind():
    compute = np.eye(6, dtype=bool)
    branches = ("attn-0", "cross-0", "mlp-0", "attn-1", "cross-1", "mlp-1")
    axes = figure(fields_of(compute, branches)).axes
    colours = {axis.get_ylabel(): axis.yaxis.label.get_color() for axis in axes[:3]}
    assert colours == {
        "attention, block": COLOURS[0][0],
        "cross, block": COLOURS[2][0],
        "MLP, block": COLOURS[1][0],
    }


def test_tokens_predictions_and_branches_passed_over_are_drawn_in_their_cells():
    compute, shares, restored = np.ones((4, 4), bool), np.full((4, 4), -1.0), np.zeros((4, 4), bool)
    compute[1:3] = False
    shares[1, 1], restored[2] = 0.25, True
    tokens = TokenSchedule(shares, restored, TokenRule("random", 0.25, 3, 0))
    predictions = Predictions.from_terms(4, 4, {(1, 0): [(0, 1.5)]})
    fields = fields_of(compute, default_branches(4))
    attn, mlp, shown = figure(fields | {"tokens": tokens, "predictions": predictions}).axes
    (dot,), (part,) = (axis.collections[0].get_paths() for axis in (attn, mlp))
    assert dot.get_extents().get_points().mean(axis=0) == pytest.approx([1, 0])
    assert part.get_extents().bounds == pytest.approx((0.5, 0.25, 1, 0.25))
    shades = np.asarray(attn.images[0].get_array())
    assert shades.tolist() == [[1, 0, 3, 1], [1, 0, 3, 1]]
    tops = [bar.get_y() + bar.get_height() for bar in shown.patches[4:8]]
    assert tops == pytest.approx([100, 6.25, 0, 100])


def test_an_evaluation_of_half_the_batch_is_half_as_high(tmp_path):
    schedule = rt.methods.GuidanceInterval((250, 800)).schedule(
        3, default_branches(4), timesteps=(900, 500, 100)
    )
    picture = figure(schedule.as_fields())
    tops = [bar.get_y() + bar.get_height() for bar in picture.axes[-1].patches[3:6]]
    assert tops == pytest.approx([100, 100, 50])
    assert not misplaced_texts(picture)


def test_the_map_of_a_run_shows_what_it_did(tmp_path):
    fast = rt.compile(toy_dit(), rt.methods.DuCa(fresh_ratio=0.2), steps=12)
    fast.sample(noise(), [1, 2])
    run, planned = fast.last_run, Cells.of(fast.schedule.as_fields())
    fast.last_run.plot(tmp_path / "run.png")
    fast.schedule.plot(tmp_path / "plan.png")
    assert ((run.acts[:, 0] == Act.LEFT_OUT) == planned.passed).all()
    assert "blank passed over" in str(run)
    assert ((run.acts[:, 0] == Act.REFRESHED) == (planned.shares * 16 >= 1)).all()
    a, b = (pixels(tmp_path / name) for name in ("run.png", "plan.png"))
    assert abs(share_of(PASSED, a) - share_of(PASSED, b)) < 0.02
    assert share_of(PASSED, a) > 0.02


@pytest.mark.parametrize("source", ["", "a router " * 40, "router" * 40])
@pytest.mark.parametrize("steps", [1, 20, 250])
def test_no_text_overlaps_another_or_leaves_the_picture(steps, source):
    picture = figure(fields_of(np.ones((steps, 56), bool), default_branches(56), source))
    assert not misplaced_texts(picture)


@pytest.mark.parametrize(
    ("shape", "branches"),
    [
        ((1, 1), ("only",)),
        ((300, 2), ()),
        ((3, 400), ()),
        ((4, 3), ("attn-0", "cross-0", "mlp-0")),
        ((4, 5), ("a-0", "b-0", "c-0", "d-0", "e-0")),
        ((4, 3), ("attn-0", "$\\bad{$-0", "mlp-0")),
    ],
)
def test_any_shape_and_any_names_can_be_drawn(tmp_path, shape, branches):
    compute = np.random.default_rng(0).random(shape) > 0.5
    compute[0] = True
    CacheSchedule(compute, branches, source="$\\bad{$ & 100 %").plot(tmp_path / "s.png")
    assert pixels(tmp_path / "s.png").size


def test_a_picture_that_is_no_png_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is a PNG; name it \.png"):
        CacheSchedule(np.ones((2, 2), bool)).plot(tmp_path / "s.gif")


def test_drawing_leaves_no_global_state():
    code = (
        "import sys, tempfile, numpy as np; from l2c_rt.schedule import CacheSchedule;"
        "assert 'matplotlib' not in sys.modules;"
        "CacheSchedule(np.ones((2, 2), bool)).plot(tempfile.mkdtemp() + '/s.png');"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    path = [p for p in sys.path if p]
    code = f"import sys; sys.path[:0] = {path!r}; " + code
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
