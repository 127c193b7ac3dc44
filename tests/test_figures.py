from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from l2c_rt import figures


@pytest.mark.parametrize(
    ("module", "require"),
    [("matplotlib", figures.require_matplotlib), ("PIL", figures.require_pillow)],
)
def test_a_missing_library_is_an_error_that_says_what_to_install(monkeypatch, module, require):
    # None is what makes `import` fail.
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module}.*pip install l2c_rt\[plot\]"):
        require()


def test_a_missing_matplotlib_is_noticed_before_a_figure_is_made(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install l2c_rt\[plot\]"):
        figures.new_figure(4, 3)


def test_a_figure_has_its_size_and_a_canvas_that_needs_no_display(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    figure = figures.new_figure(4, 3)
    assert tuple(figure.get_size_inches()) == (4, 3)
    assert type(figure.canvas).__name__ == "FigureCanvasAgg"


def test_only_a_png_is_a_picture():
    figures.require_png("a.PNG", "schedule")
    with pytest.raises(ValueError, match=r"a\.gif: the picture of a schedule is a PNG"):
        figures.require_png("a.gif", "schedule")


def test_a_missing_matplotlib_can_be_asked_for(monkeypatch):
    assert figures.has_matplotlib() == (find_spec("matplotlib") is not None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not figures.has_matplotlib()


def test_the_palette_and_its_tints_are_different_colours():
    assert len({*figures.PALETTE, *figures.TINTS}) == 8


def test_a_schedule_under_test_has_the_colour_of_the_learned_one():
    assert figures.method_colour("random") == figures.METHOD_COLOURS["random"]
    assert figures.method_colour("this schedule") == figures.METHOD_COLOURS["learned"]


# Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as those readers see it.
SIGHT = {
    "all colours": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                 [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def seen(colour, sight):
    """CIELAB of an sRGB colour."""
    rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(XYZ @ np.clip(np.array(sight) @ linear, 0, 1) / XYZ.sum(axis=1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(
    "colours",
    [
        (*figures.METHOD_COLOURS.values(), figures.FULL_RUN),
        figures.PALETTE,
        (*figures.METHOD_COLOURS.values(), *figures.MORE_COLOURS),
    ],
    ids=["methods", "kinds", "many methods"],
)
def test_colours_of_one_picture_stay_apart_for_colour_blind_readers(colours, sight):
    points = [seen(colour, SIGHT[sight]) for colour in colours]
    assert min(np.linalg.norm(a - b) for a, b in combinations(points, 2)) > 15


def test_a_picture_carries_its_description(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    figures.save_figure(figures.new_figure(1, 1), tmp_path / "a.png", 50, "learned 64.1 dB")
    assert b"Description\0learned 64.1 dB" in (tmp_path / "a.png").read_bytes()


def test_importing_the_module_imports_no_matplotlib():
    code = "import sys; import l2c_rt.figures; sys.exit('matplotlib' in sys.modules)"
    code = f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}; {code}"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_two_of_thirty_methods_look_alike_and_known_ones_keep_their_colour() -> None:
    names = ["learned", *(f"method {k}" for k in range(28)), "random"]
    looks = figures.method_series(names)
    assert len({(look.colour, look.line) for look in looks}) > 20
    assert len(set(looks)) == len(names)
    known = [look.colour for look in (looks[0], looks[-1])]
    assert known == [figures.method_colour("learned"), figures.method_colour("random")]
    assert all(look.colour not in known for look in looks[1:-1])
