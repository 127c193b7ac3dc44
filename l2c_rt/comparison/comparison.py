"""A comparison: its rows, as text, as JSON, and as a picture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2c_rt.comparison.fit_report import text_table
from l2c_rt.comparison.pareto import draw_pareto
from l2c_rt.comparison.results import FULL, Row
from l2c_rt.figures import require_png
from l2c_rt.untrusted.atomic_write import write_whole

FORMAT = "l2c_rt.comparison"
VERSION = 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """The full run's row first.  `print` shows a table.

    `compute` are the shares that methods were brought to, None where each ran as it is; `images`
    and `cfg_scale` are None where they are a matter of the user's own loop; `reasons` says of every
    metric that is not there why; `digest` is of the configuration.
    """

    model: str
    steps: int
    images: int | None
    seeds: tuple[int, ...]
    cfg_scale: float | None
    compute: tuple[float, ...] | None
    rows: tuple[Row, ...]
    reasons: dict[str, str]
    digest: str

    def __str__(self) -> str:
        heads = ["method", "setting", "computed", "at most", "error", "PSNR dB", "SSIM", "LPIPS",
                 "FID", "speed-up", "seconds", "cache MiB"]  # fmt: skip
        table = text_table([heads, *map(_cells, self.rows)])
        notes = [f"no {name.upper()}: {reason}" for name, reason in self.reasons.items()]
        return "\n".join([self.title, "", *table, *([""] if notes else []), *notes])

    @property
    def title(self) -> str:
        """What was run."""
        parts = [f"{self.model}, {self.steps} evaluations"]
        if self.images is not None:
            parts.append(f"{self.images} images")
        if self.cfg_scale is not None:
            parts.append(f"guidance {self.cfg_scale:g}")
        many = "s" if len(self.seeds) > 1 else ""
        return "; ".join([*parts, f"seed{many} {', '.join(map(str, self.seeds))}"])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with every seed's; None in the place of those not finite."""
        plain: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        plain |= {name: getattr(self, name) for name in self.__slots__ if name != "rows"}
        return plain | {"rows": [row.as_dict() for row in self.rows]}

    def save(self, path: str | Path) -> None:
        """Write `as_dict` as JSON."""
        write_whole(path, json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n")

    def plot(self, path: str | Path) -> None:
        """Draw the error over compute and over measured time, a line per method, as a PNG."""
        require_png(path, "comparison")
        draw_pareto(path, self.rows, self.title)


def _cells(row: Row) -> list[str]:
    full = row.method == FULL
    quality = [
        _number(None if full else row.mean(lambda r: r.psnr), ".2f"),
        _number(None if full else row.mean(lambda r: r.ssim), ".4f"),
        _number(None if full else row.mean(lambda r: r.lpips), ".4f"),
        _number(row.fid, ".3f"),
    ]
    return [
        row.method,
        row.setting or "-",
        f"{100 * row.computed:.1f} %",
        f"{1 / row.computed:.2f}x",
        _number(row.error or None, ".2e"),
        *quality,
        _number(row.speedup, ".2f", "x"),
        _number(row.seconds, ".3f"),
        f"{row.cache_bytes / 2**20:.1f}",
    ]


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"
