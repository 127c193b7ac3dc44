"""The picture of a schedule: one heatmap per kind of branch, compute share per evaluation beneath.

Needs matplotlib, imported when a picture is drawn; no pyplot, so no global state and no display.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from l2c_rt.families import display_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from l2c_rt.schedule.cache_schedule import CacheSchedule

# Okabe and Ito's palette, which colour-blind readers can tell apart; each with its tint.
COLOURS = (("#0072B2", "#BCD9EA"), ("#D55E00", "#F5CFB4"), ("#009E73", "#B4E0D3"))
REUSED = "#F7F7F7"
GRID = "#DDDDDD"
TITLES = {"attn": "attention", "mlp": "MLP"}


def plot_schedule(schedule: CacheSchedule, path: str | Path) -> None:
    """Write a PNG: evaluations from noisy to clean on x, branches on y."""
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: the picture of a schedule is a PNG; name it .png")
    schedule_figure(schedule).savefig(path, dpi=150)


def schedule_figure(schedule: CacheSchedule) -> Figure:
    """The picture as a matplotlib figure, for those who want to change or embed it."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing a schedule needs matplotlib: pip install matplotlib") from error

    panels = _panels(schedule)
    figure = Figure(figsize=(9, 1.9 + 2.5 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [2.5] * len(panels) + [0.9]
    axes = figure.subplots(len(panels) + 1, 1, sharex=True, height_ratios=ratios)
    for k, (kind, columns) in enumerate(panels.items()):
        _draw_panel(axes[k], _shades(schedule)[:, columns], kind, COLOURS[k])
    _draw_shares(axes[-1], schedule, panels)
    _title(figure, schedule)
    _legend(figure, len(panels))
    figure.align_ylabels(axes)
    return figure


def _panels(schedule: CacheSchedule) -> dict[str, list[int]]:
    """{kind: its columns}; a name without -number is a kind of its own, as is any fourth kind."""
    panels: dict[str, list[int]] = {}
    for k, name in enumerate(schedule.branches):
        kind, _, block = name.rpartition("-")
        panels.setdefault(kind if block.isdecimal() else "", []).append(k)
    if len(panels) > len(COLOURS):
        return {"": list(range(schedule.num_branches))}
    return panels


def _shades(schedule: CacheSchedule) -> npt.NDArray[np.int64]:
    """0 reused, 1 computed in an evaluation that computes everything, 2 computed in another."""
    full = schedule.compute.all(axis=1, keepdims=True)
    return np.where(full, 1, 2 * schedule.compute.astype(np.int64))


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
    named = f"{TITLES.get(kind, kind)}, block" if kind else "branch"
    axis.set_ylabel(named, color=colour, fontweight="bold", parse_math=False)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1))
    axis.tick_params(length=2)


def _draw_cells(axis: Any, steps: int, rows: int) -> None:
    axis.set_xticks(np.arange(-0.5, steps), minor=True)
    axis.set_yticks(np.arange(-0.5, rows), minor=True)
    axis.grid(which="minor", color="white", linewidth=0.6)
    axis.tick_params(which="minor", length=0)
    axis.tick_params(axis="x", length=0)


def _draw_shares(axis: Any, schedule: CacheSchedule, panels: dict[str, list[int]]) -> None:
    from matplotlib.ticker import MaxNLocator

    bottom = np.zeros(schedule.steps)
    full = [all(row) for row in schedule.compute.tolist()]
    for (colour, tint), columns in zip(COLOURS, panels.values(), strict=False):
        share = 100 * schedule.compute[:, columns].sum(axis=1) / schedule.num_branches
        shades = [tint if f else colour for f in full]
        axis.bar(np.arange(schedule.steps), share, 0.85, bottom, color=shades, linewidth=0)
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


def _title(figure: Any, schedule: CacheSchedule) -> None:
    parts = [display_name(name) for name in (schedule.family, schedule.sampler) if name]
    loop = " ".join([*parts, f"{schedule.steps} evaluations"])
    computed = f"{100 * (1 - schedule.reuse_share):.1f} % of branches computed"
    distinct = f"{len(schedule.distinct_rows())} distinct evaluations"
    lines = [f"{loop}: {computed}, {distinct}"]
    figure.suptitle(
        "\n".join([*lines, schedule.source[:110]]).strip(), fontsize=11, parse_math=False
    )


def _legend(figure: Any, panels: int) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    pairs = COLOURS[:panels]
    full = tuple(Patch(facecolor=tint) for _, tint in pairs)
    some = tuple(Patch(facecolor=colour) for colour, _ in pairs)
    figure.legend(
        [full, some, Patch(facecolor=REUSED, edgecolor=GRID)],
        ["computed, all branches at once", "computed, beside reused ones", "reused"],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
