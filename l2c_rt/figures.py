"""What every picture shares: matplotlib without a display, and the colours.

Imports matplotlib when a picture is drawn, and no pyplot: no global state.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from l2c_rt.untrusted.atomic_write import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart, and a tint of each colour.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
TINTS = ("#BCD9EA", "#F5CFB4", "#B4E0D3", "#EFD6E4")
GRID = "#DDDDDD"
# The rest of theirs, so that a method has one colour in every picture, and no kind of branch has.
METHOD_COLOURS = {
    "learned": "#009E73",
    "noisiest first": "#CC79A7",
    "every-N": "#E69F00",
    "random": "#56B4E9",
}
FULL_RUN = "#333333"
# For more methods than that palette has colours: each colour again with another line and marker.
MORE_COLOURS = ("#0072B2", "#D55E00", "#882255", "#332288")
LINES = ("-", "--", ":", "-.")
MARKERS = "os^Dv<>Px*"


class Series(NamedTuple):
    """What a method's line looks like; no two differ in the colour alone."""

    colour: str
    marker: str
    line: str


def method_series(names: Sequence[str]) -> list[Series]:
    """A look for each method: its own colour where it has one in every picture."""
    others = [c for c in (*METHOD_COLOURS.values(), *MORE_COLOURS)
              if c not in {METHOD_COLOURS.get(name) for name in names}]  # fmt: skip
    looks, further = [], 0
    for k, name in enumerate(names):
        if name in METHOD_COLOURS:
            colour, line = METHOD_COLOURS[name], LINES[0]
        else:
            rounds, place = divmod(further, len(others))
            colour, line = others[place], LINES[rounds % len(LINES)]
            further += 1
        looks.append(Series(colour, MARKERS[k % len(MARKERS)], line))
    return looks


def new_figure(width: float, height: float) -> Figure:
    """An empty matplotlib figure of that size in inches, for PNG files.

    Raises: ImportError saying what to install.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path, dpi: int, description: str = "") -> None:
    """Write a PNG, whole or not at all, with its `description` as text in the file."""
    buffer = io.BytesIO()
    metadata = {"Description": description} if description else None
    figure.savefig(buffer, dpi=dpi, format="png", metadata=metadata)
    write_whole(path, buffer.getvalue())


def method_colour(name: str) -> str:
    """A method's colour in every picture; that of "learned" for the schedule under test."""
    return METHOD_COLOURS.get(name, METHOD_COLOURS["learned"])


def has_matplotlib() -> bool:
    """Whether pictures can be drawn."""
    try:
        require_matplotlib()
    except ImportError:
        return False
    return True


def require_matplotlib() -> None:
    """ImportError saying what to install where there is no matplotlib.

    Call it before long work that ends in a picture.
    """
    _require("matplotlib")


def require_pillow() -> None:
    """ImportError saying what to install where there is no Pillow, as for `require_matplotlib`."""
    _require("PIL")


def require_png(path: str | Path, picture: str) -> None:
    """ValueError where `path`, the file of a `picture`, does not end in .png."""
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: the picture of a {picture} is a PNG; name it .png")


def _require(module: str) -> None:
    try:
        import_module(module)
    except ImportError as error:
        raise ImportError(
            f"pictures need {error.name or module}: pip install l2c_rt[plot]", name=error.name
        ) from error
