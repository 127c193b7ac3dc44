"""The predictions of a schedule as plain JSON values, and read from such: untrusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from l2c_rt.schedule.predictions import MAX_LANES, MAX_TERMS, Predictions

Table = npt.NDArray[Any]


def listed(predictions: Predictions) -> list[list[Any]]:
    """[evaluation, branch, [[earlier evaluation, coefficient], ...]] of every predicted cell, the
    coefficients of all lanes.

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
    lanes = range(predictions.lanes)
    cells = (
        (s, k, [predictions.at(s, k, lane) for lane in lanes])
        for s in range(steps) for k in range(num_branches)
    )  # fmt: skip
    return [
        [s, k, [[terms[0].evaluation, *(term.coefficient for term in terms)]
                for terms in zip(*of_lanes, strict=True)]]
        for s, k, of_lanes in cells if of_lanes[0]
    ]  # fmt: skip


def parse(entries: Any, steps: int, num_branches: int, unconditional: Any = None) -> Predictions:
    """What `listed` gave, checked, and the lane without a condition; ValueError says what is wrong
    with anything else."""
    if not isinstance(entries, list) or len(entries) > steps * num_branches:
        raise ValueError(f"predictions is {entries!r:.40}, wanted a list of predicted cells")
    cells: dict[tuple[int, int], list[list[float]]] = {}
    width = 2
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[2], list):
            raise ValueError(f"predictions has {entry!r:.60}, wanted [evaluation, branch, terms]")
        s, k, terms = entry
        if not (_is_index(s, steps) and _is_index(k, num_branches)) or (s, k) in cells:
            raise ValueError(f"predictions has cell {s!r:.20}, {k!r:.20}, which is no cell or a "
                             "second one")  # fmt: skip
        if not cells and terms and isinstance(terms[0], list):
            width = len(terms[0])
        if not 1 <= len(terms) <= MAX_TERMS or not all(_is_term(t, s, width) for t in terms):
            raise ValueError(
                f"predictions of evaluation {s}, branch {k}: {terms!r:.60}, wanted 1..{MAX_TERMS} "
                "lists of an earlier evaluation and a finite number, or one for each lane"
            )
        cells[s, k] = terms
    lanes = [_of_lane(cells, steps, num_branches, lane) for lane in range(width - 1)]
    if unconditional is not None and not _is_index(unconditional, len(lanes)):
        raise ValueError(f"unconditional is {unconditional!r:.20}, which is none of the lanes")
    coefficients = np.concatenate([of.coefficients for of in lanes])
    return replace(lanes[0], coefficients=coefficients, unconditional=unconditional)


def unconditional_header(predictions: Predictions) -> dict[str, str]:
    """What the header of a file of tensors says of the lane without a condition."""
    lane = predictions.unconditional
    return {} if lane is None else {"unconditional": str(lane)}


def from_tensors(sources: Table, coefficients: Table, header: Mapping[str, str]) -> Predictions:
    """The predictions in a file of tensors.  Raises ValueError for a lane that is none."""
    text = header.get("unconditional")
    if text is not None and not (text.isdecimal() and len(text) == 1):
        raise ValueError(f"header field unconditional is {text!r:.20}, wanted the number of a lane")
    return Predictions(sources, coefficients, unconditional=None if text is None else int(text))


def _of_lane(
    cells: Mapping[tuple[int, int], Sequence[Sequence[float]]],
    steps: int,
    num_branches: int,
    lane: int,
) -> Predictions:
    terms = {
        cell: [(int(term[0]), float(term[1 + lane])) for term in of] for cell, of in cells.items()
    }
    return Predictions.from_terms(steps, num_branches, terms)


def _is_index(value: Any, size: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size


def _is_term(term: Any, evaluation: int, width: int) -> bool:
    if not isinstance(term, list) or not 2 <= len(term) <= 1 + MAX_LANES or len(term) != width:
        return False
    return _is_index(term[0], evaluation) and all(map(_is_coefficient, term[1:]))


def _is_coefficient(number: Any) -> bool:
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    # An integer of a thousand digits has no float.
    return is_number and abs(number) < 1e30 and math.isfinite(number)
