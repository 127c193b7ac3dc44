"""Texts of a matplotlib figure as they are drawn: where they stand, and which of them collide."""

from __future__ import annotations

from itertools import combinations
from typing import Any
from unittest.mock import patch


def drawn_texts(figure: Any) -> list[Any]:
    """The texts that a reader sees; ticks outside of their axis are not among them."""
    from matplotlib.text import Text

    figure.draw_without_rendering()  # The layout, which the boxes below depend on.
    with patch.object(Text, "draw", autospec=True) as draw:
        figure.canvas.draw()
    texts = [call.args[0] for call in draw.call_args_list]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def misplaced_texts(figure: Any) -> list[str]:
    """Texts that overlap another one or leave the canvas, named."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn_texts(figure)]
    width, height = figure.canvas.get_width_height()
    outside = [
        f"{text!r} leaves the canvas" for text, box in boxes
        if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
    ]  # fmt: skip
    return outside + [
        f"{one!r} overlaps {other!r}"
        for (one, box), (other, its) in combinations(boxes, 2)
        if box.overlaps(its)
    ]
