"""Options that several commands share; those that belong together arrive as one argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from l2c_rt.cli.checks import device_option
from l2c_rt.cli.sources import SmoothCacheHeader, Threshold
from l2c_rt.families import FAMILIES, Family

Command = Callable[..., Any]


class FiniteFloat(click.FloatRange):
    """A number of a range, infinity and nan left out."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


MOST = 4096
"""Images of a run, and other numbers that memory bounds."""

WIDEST = 65536
"""Of a model."""

SEED = click.IntRange(0, 2**63 - 1)
"""What torch's generators take."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
force_option = click.option("--force", is_flag=True, help="Overwrite files that exist.")
num_heads_option = click.option(
    "--num-heads",
    type=click.IntRange(1, MOST),
    help="Attention heads, where the weights file does not say and the width is not published.",
)
key_option = click.option(
    "--key", default="", metavar="KEY",
    help="Where the weights lie in the file, as in ema or state_dict.model, if there are several.",
)  # fmt: skip
BACKENDS = ("auto", "reference", "fused")
backend_option = click.option(
    "--backend", type=click.Choice(BACKENDS), default="auto",
    show_default=True, help="How ops are run; auto is reference on a CPU.",
)  # fmt: skip


def of_each_family(value: Callable[[Family], float]) -> str:
    """A published number for help texts, as in "DiT 4, U-ViT 0.4"."""
    return ", ".join(f"{family.display_name} {value(family):g}" for family in FAMILIES.values())


cfg_scale_option = click.option(
    "--cfg-scale",
    type=FiniteFloat(),
    help=f"Guidance; default as published: {of_each_family(lambda family: family.cfg_scale)}.",
)


def cut_options(command: Command) -> Command:
    """--threshold and --reuse, as `cut`: which schedule a router gives."""

    @click.option(
        "--threshold",
        type=FiniteFloat(0, 1),
        help="Router only: compute where the score is above this.  Default: as published, "
        f"{of_each_family(lambda family: family.threshold)}.",
    )
    @click.option(
        "--reuse",
        type=FiniteFloat(0, 1),
        help="Router only: reuse this share of the branches of the evaluations that may reuse.",
    )
    @wraps(command)
    def run(threshold: float | None, reuse: float | None, **rest: Any) -> Any:
        return command(cut=Threshold(threshold, reuse), **rest)

    return run


def smoothcache_options(command: Command) -> Command:
    """--blocks, --family and --sampler, as `left_out`: what SmoothCache's files leave out."""

    @click.option(
        "--blocks",
        type=click.IntRange(1, MOST),
        help='SmoothCache file keyed by type ("attn", "mlp"): number of blocks.',
    )
    @click.option(
        "--family", type=click.Choice(list(FAMILIES)), help="SmoothCache file: model family."
    )
    @click.option(
        "--sampler",
        type=click.Choice(sorted({family.sampler for family in FAMILIES.values()})),
        help="SmoothCache file: sampler.",
    )
    @wraps(command)
    def run(blocks: int | None, family: str | None, sampler: str | None, **rest: Any) -> Any:
        return command(left_out=SmoothCacheHeader(blocks, family or "", sampler or ""), **rest)

    return run


def calibration_options(command: Command) -> Command:
    """What runs that measure a model are made of; all options arrive under their own names."""
    batch_size = click.option("--batch-size", type=click.IntRange(1, MOST), default=5,
                              show_default=True, help="Images of a run.")  # fmt: skip
    seed = click.option("--seed", type=SEED, default=0, show_default=True)
    resume = click.option(
        "--resume", is_flag=True, help="Take up what lies beside the file, if anything."
    )
    for option in (force_option, resume, device_option, key_option, num_heads_option,
                   cfg_scale_option, seed, batch_size):  # fmt: skip
        command = option(command)
    return command
