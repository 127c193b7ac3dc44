"""Labels on the command line: "3", "0-9", "0,5,7-9"."""

from __future__ import annotations

import re

from l2c_rt.cli.exits import refuse
from l2c_rt.cli.options import MOST


def parse_labels(text: str) -> list[int]:
    """The labels of a comma-separated list of numbers and ranges."""
    labels: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part, re.ASCII)
        if ends is None or (first := int(ends[1])) > (last := int(ends[2] or ends[1])):
            refuse("--labels", f"{part!r} is not a label; wanted numbers, ranges such as 0,3,5-9")
        if len(labels) + last - first >= MOST:
            refuse("--labels", f"more than {MOST} labels")
        labels += range(first, last + 1)
    return labels


def check_labels(labels: list[int], classes: int) -> None:
    """A usage error for labels that are not classes of the model; one without takes no label."""
    if classes and max(labels) >= classes:
        refuse("--labels", f"{max(labels)} is not within 0..{classes - 1}, the model's classes")
