"""The ASCII map of a schedule: what `print(schedule)` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from l2c_rt.schedule.cache_schedule import CacheSchedule

MAX_COLUMNS = 72
MARGIN = 7


def schedule_map(schedule: CacheSchedule) -> str:
    """One line per evaluation, noisiest first, with its compute share; the total comes last.

    Above 72 branches, neighbours share a character: # all computed, . all reused, + some of each.
    """
    fold = -(-schedule.num_branches // MAX_COLUMNS)
    lines = [*_title(schedule, fold), _ruler(schedule.branches, fold)]
    for step in range(schedule.steps):
        row = schedule.compute[step]
        lines.append(f"{step:>{MARGIN - 2}}  {_marks(row, fold)}  {_share(row)}")
    total = f"total, {len(schedule.distinct_rows())} distinct rows"
    width = MARGIN + -(-schedule.num_branches // fold)
    return "\n".join([*lines, f"{total:>{width}}  {_share(schedule.compute)}"])


def _title(schedule: CacheSchedule, fold: int) -> list[str]:
    parts = [f"{schedule.steps} steps x {schedule.num_branches} branches"]
    parts += [text for text in (schedule.family, schedule.sampler) if text]
    if schedule.lanes > 1:
        parts.append(f"{schedule.lanes} lanes")
    if schedule.threshold is not None:
        parts.append(f"threshold {schedule.threshold:.4g}")
    parts.append("# compute . reuse" + (f" + both, {fold} branches each" if fold > 1 else ""))
    source = [schedule.source[:100]] if schedule.source else []
    return [", ".join(parts), *source]


def _ruler(branches: tuple[str, ...], fold: int) -> str:
    per_mark = 10 * fold
    blocks = all(name.rpartition("-")[2] == str(k // 2) for k, name in enumerate(branches))
    label, unit = ("block", 2) if blocks else ("branch", 1)
    marks = "".join(f"{k // unit:<10}" for k in range(0, len(branches), per_mark))
    width = -(-len(branches) // fold)
    return f"{label:<{MARGIN}}{marks[: max(width, 1)]:<{width}}  compute"


def _marks(row: npt.NDArray[np.bool_], fold: int) -> str:
    if fold == 1:
        return "".join("#" if c else "." for c in row.tolist())
    groups = [row[k : k + fold] for k in range(0, len(row), fold)]
    return "".join("#" if g.all() else "+" if g.any() else "." for g in groups)


def _share(compute: npt.NDArray[np.bool_]) -> str:
    computed = int(compute.sum())
    return f"{100 * computed / compute.size:5.1f} %  {computed}/{compute.size}"
