"""The picture of a schedule or run: a heatmap per kind of branch, what is computed beneath.

Needs matplotlib, imported when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from l2c_rt.families import display_name
from l2c_rt.figures import GRID, PALETTE, TINTS, new_figure, require_png, save_figure
from l2c_rt.schedule.cells import Cells
from l2c_rt.schedule.files import Fields

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = tuple(zip(PALETTE, TINTS, strict=True))[:3]
REUSED, PASSED = "#F7F7F7", "#9A9A9A"
HATCH = "///"
DOT = 0.16
"""Of a predicted cell, its radius as a share of the cell."""
TITLES = {"attn": "attention", "mlp": "MLP"}


def draw(path: str | Path, fields: Fields, cells: Cells | None = None) -> None:
    """Write a PNG: evaluations from noisy to clean on x, branches on y.

    Without `cells` they are what the schedule says.
    """
    require_png(path, "schedule")
    save_figure(figure(fields, cells), path, dpi=180, description=_summary(fields))


def figure(fields: Fields, cells: Cells | None = None) -> Figure:
    """The picture as a matplotlib figure, for those who want to change or embed it."""
    cells, panels = cells or Cells.of(fields), kinds_of(fields["branches"])
    picture = new_figure(7.2, 1.8 + 1.9 * len(panels))
    ratios = [1.9] * len(panels) + [0.7]
    axes = picture.subplots(len(panels) + 1, 1, sharex=True, height_ratios=ratios)
    colours = _colours(panels)
    shades = _shades(cells)
    for axis, (kind, columns) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, shades[:, columns], kind, colours[kind])
        _draw_parts(axis, cells, columns, colours[kind][0])
    _draw_shares(axes[-1], cells, panels, colours)
    lines = [_summary(fields), *wrap(fields["source"][:160], 80)]
    picture.suptitle("\n".join(lines), fontsize=10, parse_math=False)
    _legend(picture, colours, cells)
    picture.align_ylabels(axes)
    return picture


def kinds_of(branches: tuple[str, ...]) -> dict[str, list[int]]:
    """{kind: its columns}; a name without -number is a kind of its own, as is any fourth kind."""
    panels: dict[str, list[int]] = {}
    for k, name in enumerate(branches):
        kind, _, block = name.rpartition("-")
        panels.setdefault(kind if block.isdecimal() else "", []).append(k)
    if len(panels) > len(COLOURS):
        return {"": list(range(len(branches)))}
    return panels


def label_of(kind: str) -> str:
    """What the axis of a kind counts."""
    return f"{TITLES.get(kind, kind)}, block" if kind else "branch"


def _colours(kinds: Collection[str]) -> dict[str, tuple[str, str]]:
    """{kind: its colour and tint}: attention and MLP have theirs, whatever stands beside them."""
    fixed = {kind: c for kind, c in zip(TITLES, COLOURS, strict=False) if kind in kinds}
    free = iter([c for c in COLOURS if c not in fixed.values()])
    return {kind: fixed.get(kind) or next(free) for kind in kinds}


def _shades(cells: Cells) -> npt.NDArray[np.int64]:
    """0 reused, 1 computed in an evaluation that computes everything, 2 computed in another, 3
    passed over."""
    full = cells.compute.all(axis=1, keepdims=True)
    shades = np.where(full, 1, 2 * cells.compute.astype(np.int64))
    return np.where(cells.passed, 3, shades)


def _draw_panel(
    axis: Any, shades: npt.NDArray[np.int64], kind: str, colours: tuple[str, str]
) -> None:
    from matplotlib.colors import ListedColormap

    steps, rows = shades.shape
    colour, tint = colours
    axis.imshow(
        shades.T,
        cmap=ListedColormap([REUSED, tint, colour, PASSED]),
        vmin=0,
        vmax=3,
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, steps - 0.5, rows - 0.5, -0.5),
    )
    if steps <= 100 and rows <= 60:
        _draw_cells(axis, steps, rows)
    axis.set_ylabel(label_of(kind), color=colour, fontweight="bold", parse_math=False)
    axis.locator_params(axis="y", integer=True, nbins=7, min_n_ticks=1)
    axis.tick_params(length=2)


def _draw_parts(axis: Any, cells: Cells, columns: list[int], colour: str) -> None:
    """Cells whose tokens are computed in part are filled as far; predicted ones have a dot."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Ellipse, Rectangle

    shares, predicted = cells.shares[:, columns], cells.predicted[:, columns]
    parts = [
        Rectangle((s - 0.5, k + 0.5 - shares[s, k]), 1, shares[s, k])
        for s, k in np.argwhere(shares > 0)
    ]  # fmt: skip
    dots = [Ellipse((s, k), 2 * DOT, 2 * DOT) for s, k in np.argwhere(predicted)]
    axis.add_collection(PatchCollection([*parts, *dots], facecolor=colour, linewidth=0))


def _draw_cells(axis: Any, steps: int, rows: int) -> None:
    axis.set_xticks(np.arange(-0.5, steps), minor=True)
    axis.set_yticks(np.arange(-0.5, rows), minor=True)
    axis.grid(which="minor", color="white", linewidth=0.6)
    axis.tick_params(which="minor", length=0)
    axis.tick_params(axis="x", length=0)


def _draw_shares(
    axis: Any, cells: Cells, panels: dict[str, list[int]], colours: dict[str, tuple[str, str]]
) -> None:
    steps, num_branches = cells.compute.shape
    bottom = np.zeros(steps)
    full = [all(row) for row in cells.compute.tolist()]
    for kind, columns in panels.items():
        colour, tint = colours[kind]
        share = 100 * cells.work[:, columns].sum(axis=1) / num_branches
        shades = [tint if f else colour for f in full]
        axis.bar(np.arange(steps), share, 0.85, bottom, color=shades, linewidth=0)
        bottom += share
    half = np.flatnonzero(cells.halved)
    axis.bar(half, bottom[half], 0.85, color="none", edgecolor="white", hatch=HATCH, linewidth=0)
    axis.locator_params(axis="x", integer=True, nbins=11, min_n_ticks=1)
    axis.tick_params(which="minor", length=0)
    axis.set_ylim(0, 100)
    axis.set_yticks([0, 50, 100], ["0", "50", "100 %"])
    axis.set_ylabel("computed")
    axis.set_xlabel("evaluation:  noisy  \N{RIGHTWARDS ARROW}  clean")
    axis.grid(axis="y", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _summary(fields: Fields) -> str:
    parts = [display_name(name) for name in (fields["family"], fields["sampler"]) if name]
    compute = fields["compute"]
    loop = " ".join([*parts, f"{len(compute)} evaluations"])
    computed = f"{100 * compute.mean():.1f} % of branches computed"
    return f"{loop}: {computed}, {len(np.unique(compute, axis=0))} distinct evaluations"


def _legend(picture: Any, colours: dict[str, tuple[str, str]], cells: Cells) -> None:
    """What there is in this picture."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    full = tuple(Patch(facecolor=tint) for _, tint in colours.values())
    some = tuple(Patch(facecolor=colour) for colour, _ in colours.values())
    first = next(iter(colours.values()))[0]
    dot = Line2D([], [], marker="o", color=first, linestyle="", markersize=4)
    halved = Patch(facecolor=first, edgecolor="white", hatch=HATCH)
    entries: list[tuple[Any, str, bool]] = [
        (full, "computed, all branches at once", True),
        (some, "computed, beside reused ones", True),
        (Patch(facecolor=REUSED, edgecolor=GRID), "reused", True),
        (dot, "predicted", bool(cells.predicted.any())),
        (some, "share of the tokens", bool((cells.shares > 0).any())),
        (Patch(facecolor=PASSED), "passed over", bool(cells.passed.any())),
        (halved, "half of the batch", bool(cells.halved.any())),
    ]
    shown = [(handle, label) for handle, label, is_there in entries if is_there]
    picture.legend(
        *zip(*shown, strict=True),
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
