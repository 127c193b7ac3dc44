"""The predictions of a schedule as plain JSON values, and read from such: untrusted."""

from __future__ import annotations

import math
from typing import Any

from l2c_rt.schedule.predictions import MAX_TERMS, Predictions


def listed(predictions: Predictions) -> list[list[Any]]:
    """[evaluation, branch, [[earlier evaluation, coefficient], ...]] of every predicted cell.

    Raises ValueError where tensors belong to it, which a text file would be too large for, and
    where differences are rounded.
    """
    if predictions.rounding:
        raise ValueError(
            "a schedule with rounded differences is not saved as JSON; compile with its method"
        )
    if predictions.scale or predictions.shift:
        raise ValueError(
            "a schedule with the tensors of a corrector is not saved as JSON; save the schedule "
            "and the corrector's own file, and compile with corrector="
        )
    steps, num_branches, _ = predictions.sources.shape
    cells = ((s, k, predictions.at(s, k)) for s in range(steps) for k in range(num_branches))
    return [[s, k, [list(term) for term in terms]] for s, k, terms in cells if terms]


def parse(entries: Any, steps: int, num_branches: int) -> Predictions:
    """What `listed` gave, checked; ValueError says what is wrong with anything else."""
    if not isinstance(entries, list) or len(entries) > steps * num_branches:
        raise ValueError(f"predictions is {entries!r:.40}, wanted a list of predicted cells")
    terms: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[2], list):
            raise ValueError(f"predictions has {entry!r:.60}, wanted [evaluation, branch, terms]")
        s, k, pairs = entry
        if not (_is_index(s, steps) and _is_index(k, num_branches)) or (s, k) in terms:
            raise ValueError(f"predictions has cell {s!r:.20}, {k!r:.20}, which is no cell or a "
                             "second one")  # fmt: skip
        if not 1 <= len(pairs) <= MAX_TERMS or not all(_is_term(pair, s) for pair in pairs):
            raise ValueError(
                f"predictions of evaluation {s}, branch {k}: {pairs!r:.60}, wanted 1..{MAX_TERMS} "
                "pairs of an earlier evaluation and a finite number"
            )
        terms[s, k] = [(q, float(c)) for q, c in pairs]
    return Predictions.from_terms(steps, num_branches, terms)


def _is_index(value: Any, size: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size


def _is_term(pair: Any, evaluation: int) -> bool:
    if not isinstance(pair, list) or len(pair) != 2 or not _is_index(pair[0], evaluation):
        return False
    number = pair[1]
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    # An integer of a thousand digits has no float.
    return is_number and abs(number) < 1e30 and math.isfinite(number)
