from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_the_palette_and_its_tints_are_different_colours():
    assert len({*figures.PALETTE, *figures.TINTS}) == 8


def test_importing_the_module_imports_no_matplotlib():
    code = "import sys; import l2c_rt.figures; sys.exit('matplotlib' in sys.modules)"
    code = f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}; {code}"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
