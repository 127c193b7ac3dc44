"""The picture of a schedule: one heatmap per kind of branch, compute share per evaluation beneath.

Needs matplotlib, imported when a picture is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from l2c_rt.families import display_name
from l2c_rt.figures import PALETTE, TINTS, new_figure, require_png, save_figure
from l2c_rt.schedule.files import BoolArray, Fields

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = tuple(zip(PALETTE, TINTS, strict=True))[:3]
REUSED = "#F7F7F7"
GRID = "#DDDDDD"
TITLES = {"attn": "attention", "mlp": "MLP"}


def draw(path: str | Path, fields: Fields) -> None:
    """Write a PNG: evaluations from noisy to clean on x, branches on y."""
    require_png(path, "schedule")
    save_figure(figure(fields), path, dpi=150)


def figure(fields: Fields) -> Figure:
    """The picture as a matplotlib figure, for those who want to change or embed it."""
    compute, panels = fields["compute"], _panels(fields["branches"])
    picture = new_figure(9, 1.9 + 2.5 * len(panels))
    ratios = [2.5] * len(panels) + [0.9]
    axes = picture.subplots(len(panels) + 1, 1, sharex=True, height_ratios=ratios)
    for k, (kind, columns) in enumerate(panels.items()):
        _draw_panel(axes[k], _shades(compute)[:, columns], kind, COLOURS[k])
    _draw_shares(axes[-1], compute, panels)
    _title(picture, fields)
    _legend(picture, len(panels))
    picture.align_ylabels(axes)
    return picture


def _panels(branches: tuple[str, ...]) -> dict[str, list[int]]:
    """{kind: its columns}; a name without -number is a kind of its own, as is any fourth kind."""
    panels: dict[str, list[int]] = {}
    for k, name in enumerate(branches):
        kind, _, block = name.rpartition("-")
        panels.setdefault(kind if block.isdecimal() else "", []).append(k)
    if len(panels) > len(COLOURS):
        return {"": list(range(len(branches)))}
    return panels


def _shades(compute: BoolArray) -> npt.NDArray[np.int64]:
    """0 reused, 1 computed in an evaluation that computes everything, 2 computed in another."""
    full = compute.all(axis=1, keepdims=True)
    return np.where(full, 1, 2 * compute.astype(np.int64))


def _draw_panel(
    axis: Any, shades: npt.NDArray[np.int64], kind: str, colours: tuple[str, str]
) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.ticker import MaxNLocator

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
    label = f"{TITLES.get(kind, kind)}, block" if kind else "branch"
    axis.set_ylabel(label, color=colour, fontweight="bold", parse_math=False)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1))
    axis.tick_params(length=2)


def _draw_cells(axis: Any, steps: int, rows: int) -> None:
    axis.set_xticks(np.arange(-0.5, steps), minor=True)
    axis.set_yticks(np.arange(-0.5, rows), minor=True)
    axis.grid(which="minor", color="white", linewidth=0.6)
    axis.tick_params(which="minor", length=0)
    axis.tick_params(axis="x", length=0)


def _draw_shares(axis: Any, compute: BoolArray, panels: dict[str, list[int]]) -> None:
    from matplotlib.ticker import MaxNLocator

    steps, num_branches = compute.shape
    bottom = np.zeros(steps)
    full = [all(row) for row in compute.tolist()]
    for (colour, tint), columns in zip(COLOURS, panels.values(), strict=False):
        share = 100 * compute[:, columns].sum(axis=1) / num_branches
        shades = [tint if f else colour for f in full]
        axis.bar(np.arange(steps), share, 0.85, bottom, color=shades, linewidth=0)
        bottom += share
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=11, min_n_ticks=1))
    axis.tick_params(which="minor", length=0)
    axis.set_ylim(0, 100)
    axis.set_yticks([0, 50, 100], ["0", "50", "100 %"])
    axis.set_ylabel("computed")
    axis.set_xlabel("evaluation:  noisy  \N{RIGHTWARDS ARROW}  clean")
    axis.grid(axis="y", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _title(picture: Figure, fields: Fields) -> None:
    parts = [display_name(name) for name in (fields["family"], fields["sampler"]) if name]
    compute = fields["compute"]
    loop = " ".join([*parts, f"{len(compute)} evaluations"])
    computed = f"{100 * compute.mean():.1f} % of branches computed"
    distinct = f"{len(np.unique(compute, axis=0))} distinct evaluations"
    lines = [f"{loop}: {computed}, {distinct}", fields["source"][:110]]
    picture.suptitle("\n".join(lines).strip(), fontsize=11, parse_math=False)


def _legend(picture: Any, panels: int) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    pairs = COLOURS[:panels]
    full = tuple(Patch(facecolor=tint) for _, tint in pairs)
    some = tuple(Patch(facecolor=colour) for colour, _ in pairs)
    picture.legend(
        [full, some, Patch(facecolor=REUSED, edgecolor=GRID)],
        ["computed, all branches at once", "computed, beside reused ones", "reused"],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
