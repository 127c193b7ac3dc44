"""Labels on the command line: "3", "0-9", "0,5,7-9"."""

from __future__ import annotations

from l2c_rt.cli.exits import refuse

MOST = 4096


def parse_labels(text: str, classes: int) -> list[int]:
    """The labels of a comma-separated list of numbers and ranges, each below `classes`."""
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            refuse("--labels", f"{part!r} is not a label; wanted numbers, ranges such as 0,3,5-9")
        first, last = int(low[:9]), int((high or low)[:9])
        if not first <= last < classes:
            refuse("--labels", f"{part!r} is not within 0..{classes - 1}, the model's classes")
        found += range(first, last + 1)
        if len(found) > MOST:
            refuse("--labels", f"more than {MOST} labels")
    return found
