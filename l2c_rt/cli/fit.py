"""`l2c-rt fit`: what stands for the branches that a schedule reuses, fitted on runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from l2c_rt.cli.checks import WEIGHTS_METAVAR, check_weights, check_writable
from l2c_rt.cli.exits import fitting, refuse
from l2c_rt.cli.models import check_device, load
from l2c_rt.cli.options import (
    MOST,
    calibration_options,
    cut_options,
)
from l2c_rt.cli.sources import METAVAR, Threshold, read_source

EXAMPLES = """\b
Examples:
  l2c-rt fit digits digits/ddim-20 --reuse 0.65 -o fit-20.safetensors
  l2c-rt fit my-dit.safetensors router.safetensors --runs 8 -o fit.safetensors --resume

\b
In Python: rt.compile(model, rt.correctors.Fitted.load("fit.safetensors").fit)
"""


@click.command("fit", epilog=EXAMPLES)
@click.argument("weights", metavar=WEIGHTS_METAVAR)
@click.argument("source", metavar=METAVAR)
@cut_options
@click.option(
    "-o", "--out", required=True, type=click.Path(dir_okay=False, path_type=Path),
    help="The fitted corrector, a .safetensors file.",
)  # fmt: skip
@click.option("--history", type=click.IntRange(1, 16), default=3, show_default=True,
              help="Values of a branch that its prediction is made of.")  # fmt: skip
@click.option("--runs", type=click.IntRange(1, MOST), default=4, show_default=True,
              help="Runs of each of the two fits.")  # fmt: skip
@click.option(
    "--lanes", is_flag=True,
    help="Coefficients for cond and uncond each, where held-out runs end nearer.",
)  # fmt: skip
@calibration_options
def fit_command(
    weights: str,
    source: str,
    out: Path,
    cut: Threshold,
    num_heads: int | None,
    key: str,
    device: str,
    force: bool,
    **options: Any,
) -> None:
    """Fit what stands for the branches that a router, schedule or preset reuses."""
    if out.suffix != ".safetensors":
        refuse("--out", f"{out}: a fitted corrector is a .safetensors file; name it so")
    check_writable("--out", out, force)
    check_weights(weights)
    check_device(device)
    from l2c_rt.regression.fit_corrector import fit_corrector

    schedule = read_source(source).schedule(cut)
    loaded = load(weights, "", num_heads, key)
    loaded.model.to(device)
    with fitting():
        fitted = fit_corrector(loaded.model, schedule, out=out, **options)
    click.echo(f"{out}\n{fitted.fit}")
