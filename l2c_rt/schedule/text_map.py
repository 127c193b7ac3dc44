"""The ASCII map of a schedule, which `print(schedule)` shows."""

from __future__ import annotations

import numpy as np

from l2c_rt.schedule.files import BoolArray, Fields

MAX_COLUMNS = 72
MARGIN = 7


def text_map(fields: Fields) -> str:
    """One line per evaluation, noisiest first, with its compute share; the total comes last.

    Above 72 branches, neighbours share a character: # all computed, . all reused, + some of each.
    """
    compute, branches = fields["compute"], fields["branches"]
    fold = -(-len(branches) // MAX_COLUMNS)
    lines = [*_title(fields, fold), _ruler(branches, fold)]
    for step, row in enumerate(compute):
        lines.append(f"{step:>{MARGIN - 2}}  {_marks(row, fold)}  {_share(row)}")
    total = f"total, {len(np.unique(compute, axis=0))} distinct rows"
    width = MARGIN + -(-len(branches) // fold)
    return "\n".join([*lines, f"{total:>{width}}  {_share(compute)}"])


def _title(fields: Fields, fold: int) -> list[str]:
    steps, num_branches = fields["compute"].shape
    parts = [f"{steps} steps x {num_branches} branches"]
    parts += [text for text in (fields["family"], fields["sampler"]) if text]
    if fields["calls_per_step"] > 1:
        parts.append(f"{fields['calls_per_step']} calls per step")
    if fields["threshold"] is not None:
        parts.append(f"threshold {fields['threshold']:.4g}")
    parts.append("# compute . reuse" + (f" + both, {fold} branches each" if fold > 1 else ""))
    source = [fields["source"][:100]] if fields["source"] else []
    return [", ".join(parts), *source]


def _ruler(branches: tuple[str, ...], fold: int) -> str:
    per_mark = 10 * fold
    blocks = all(name.rpartition("-")[2] == str(k // 2) for k, name in enumerate(branches))
    label, unit = ("block", 2) if blocks else ("branch", 1)
    marks = "".join(f"{k // unit:<10}" for k in range(0, len(branches), per_mark))
    width = -(-len(branches) // fold)
    return f"{label:<{MARGIN}}{marks[: max(width, 1)]:<{width}}  compute"


def _marks(row: BoolArray, fold: int) -> str:
    if fold == 1:
        return "".join("#" if c else "." for c in row.tolist())
    groups = [row[k : k + fold] for k in range(0, len(row), fold)]
    return "".join("#" if g.all() else "+" if g.any() else "." for g in groups)


def _share(compute: BoolArray) -> str:
    computed = int(compute.sum())
    return f"{100 * computed / compute.size:5.1f} %  {computed}/{compute.size}"
