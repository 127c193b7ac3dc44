"""Rows of a comparison measured again, in the place of those of the same methods in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from l2c_rt.comparison.comparison import Comparison
from l2c_rt.comparison.results import Row, SeedResult


def merged(again: Comparison, before: Mapping[str, Any]) -> Comparison:
    """The comparison `before`, as `Comparison.as_dict` has it, with the rows measured `again`.

    Raises ValueError where the full runs of both are not the same.
    """
    rows = [_row(plain) for plain in before["rows"]]
    full, full_again = rows[0].results, again.rows[0].results
    if [(r.seed, r.macs) for r in full] != [(r.seed, r.macs) for r in full_again]:
        raise ValueError("the rows in the file are of other seeds, or of another model")
    methods = [row.method for row in rows]
    for name in dict.fromkeys(row.method for row in again.rows[1:]):
        place = methods.index(name)
        rows = [row for row in rows if row.method != name]
        rows[place:place] = [row for row in again.rows if row.method == name]
        methods = [row.method for row in rows]
    return replace(again, rows=tuple(rows), digest=before["digest"])


def _row(plain: Mapping[str, Any]) -> Row:
    results = [SeedResult.from_dict({**result, "features": None}) for result in plain["seeds"]]
    return Row(plain["method"], plain["setting"], plain["share"], tuple(results), plain["fid"])
