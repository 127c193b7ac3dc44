"""`l2c-rt search`: a schedule for a model in a minute, by measured errors, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from l2c_rt.cli.checks import WEIGHTS_METAVAR, check_weights, check_writable
from l2c_rt.cli.exits import fitting, refuse
from l2c_rt.cli.models import check_device, load
from l2c_rt.cli.options import (
    FiniteFloat,
    calibration_options,
)

EXAMPLES = """\b
Examples:
  l2c-rt search digits --steps 20 --reuse 0.4 -o searched-20.json
  l2c-rt search my-dit.safetensors --steps 50 --reuse 0.5 --minutes 10 -o searched-50.json --resume
"""


@click.command("search", epilog=EXAMPLES)
@click.argument("weights", metavar=WEIGHTS_METAVAR)
@click.option("--steps", type=click.IntRange(2, 1000), required=True, help="Evaluations of a run.")
@click.option("--reuse", type=FiniteFloat(0, 1), required=True,
              help="Share of the branches' arithmetic, of all evaluations.")  # fmt: skip
@click.option(
    "-o", "--out", required=True, type=click.Path(dir_okay=False, path_type=Path),
    help="The schedule, a .json file.",
)  # fmt: skip
@click.option("--minutes", type=FiniteFloat(0, 10_000), default=1.0, show_default=True,
              help="For trying variants, after the measurement.")  # fmt: skip
@click.option("--corrector", type=click.Choice(("fitted", "none")), default="fitted",
              show_default=True, help="What stands for a reused branch.")  # fmt: skip
@click.option("--ages", type=click.IntRange(1, 64), default=4, show_default=True,
              help="Evaluations that an output may be reused for.")  # fmt: skip
@calibration_options
def search_command(
    weights: str,
    out: Path,
    corrector: str,
    num_heads: int | None,
    key: str,
    device: str,
    force: bool,
    **options: Any,
) -> None:
    """Find the schedule of least measured error at a share of reuse."""
    if out.suffix != ".json":
        refuse("--out", f"{out}: a schedule is a .json file; name it so")
    check_writable("--out", out, force)
    check_weights(weights)
    check_device(device)
    from l2c_rt.searching.search import search

    loaded = load(weights, "", num_heads, key)
    loaded.model.to(device)
    with fitting():
        schedule = search(
            loaded.model, out=out, corrector=None if corrector == "none" else corrector, **options
        )
    click.echo(f"{out}\n{schedule}")
