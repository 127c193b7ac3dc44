"""The picture of a schedule: one heatmap per kind of branch, compute share per evaluation beneath.

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
from l2c_rt.schedule.files import BoolArray, Fields

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = tuple(zip(PALETTE, TINTS, strict=True))[:3]
REUSED = "#F7F7F7"
TITLES = {"attn": "attention", "mlp": "MLP"}


def draw(path: str | Path, fields: Fields) -> None:
    """Write a PNG: evaluations from noisy to clean on x, branches on y."""
    require_png(path, "schedule")
    save_figure(figure(fields), path, dpi=180, description=_summary(fields))


def figure(fields: Fields) -> Figure:
    """The picture as a matplotlib figure, for those who want to change or embed it."""
    compute, panels = fields["compute"], kinds_of(fields["branches"])
    picture = new_figure(7.2, 1.8 + 1.9 * len(panels))
    ratios = [1.9] * len(panels) + [0.7]
    axes = picture.subplots(len(panels) + 1, 1, sharex=True, height_ratios=ratios)
    colours = _colours(panels)
    for axis, (kind, columns) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, _shades(compute)[:, columns], kind, colours[kind])
    _draw_shares(axes[-1], compute, panels, colours)
    lines = [_summary(fields), *wrap(fields["source"][:160], 80)]
    picture.suptitle("\n".join(lines), fontsize=10, parse_math=False)
    _legend(picture, colours)
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


def _shades(compute: BoolArray) -> npt.NDArray[np.int64]:
    """0 reused, 1 computed in an evaluation that computes everything, 2 computed in another."""
    full = compute.all(axis=1, keepdims=True)
    return np.where(full, 1, 2 * compute.astype(np.int64))


def _draw_panel(
    axis: Any, shades: npt.NDArray[np.int64], kind: str, colours: tuple[str, str]
) -> None:
    from matplotlib.colors import ListedColormap

    steps, rows = shades.shape
    colour, tint = colours
    axis.imshow(
        shades.T,
        cmap=ListedColormap([REUSED, tint, colour]),
        vmin=0,
        vmax=2,
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, steps - 0.5, rows - 0.5, -0.5),
    )
    if steps <= 100 and rows <= 60:
        _draw_cells(axis, steps, rows)
    axis.set_ylabel(label_of(kind), color=colour, fontweight="bold", parse_math=False)
    axis.locator_params(axis="y", integer=True, nbins=7, min_n_ticks=1)
    axis.tick_params(length=2)


def _draw_cells(axis: Any, steps: int, rows: int) -> None:
    axis.set_xticks(np.arange(-0.5, steps), minor=True)
    axis.set_yticks(np.arange(-0.5, rows), minor=True)
    axis.grid(which="minor", color="white", linewidth=0.6)
    axis.tick_params(which="minor", length=0)
    axis.tick_params(axis="x", length=0)


def _draw_shares(
    axis: Any, compute: BoolArray, panels: dict[str, list[int]], colours: dict[str, tuple[str, str]]
) -> None:
    steps, num_branches = compute.shape
    bottom = np.zeros(steps)
    full = [all(row) for row in compute.tolist()]
    for kind, columns in panels.items():
        colour, tint = colours[kind]
        share = 100 * compute[:, columns].sum(axis=1) / num_branches
        shades = [tint if f else colour for f in full]
        axis.bar(np.arange(steps), share, 0.85, bottom, color=shades, linewidth=0)
        bottom += share
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


def _legend(picture: Any, colours: dict[str, tuple[str, str]]) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    full = tuple(Patch(facecolor=tint) for _, tint in colours.values())
    some = tuple(Patch(facecolor=colour) for colour, _ in colours.values())
    picture.legend(
        [full, some, Patch(facecolor=REUSED, edgecolor=GRID)],
        ["computed, all branches at once", "computed, beside reused ones", "reused"],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
