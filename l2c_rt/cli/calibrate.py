"""`l2c-rt calibrate`: uncached runs of a model, measured for the methods that decide by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from l2c_rt.cli.checks import WEIGHTS_METAVAR, check_weights, check_writable, device_option
from l2c_rt.cli.exits import fitting, refuse
from l2c_rt.cli.models import check_device, load
from l2c_rt.cli.options import (
    MOST,
    SEED,
    cfg_scale_option,
    force_option,
    key_option,
    num_heads_option,
)

EXAMPLES = """\b
Examples:
  l2c-rt calibrate digits --steps 50 -o digits-50.safetensors
  l2c-rt calibrate my-dit.safetensors --steps 50 --samples 10 --batch-size 2 -o dit-50.safetensors
  l2c-rt calibrate my-dit.safetensors --steps 20 --granularity block -o blocks-20.safetensors

\b
In Python: rt.compile(model, rt.methods.SmoothCache("dit-50.safetensors", threshold=0.18), steps=50)
"""


@click.command("calibrate", epilog=EXAMPLES)
@click.argument("weights", metavar=WEIGHTS_METAVAR)
@click.option("--steps", type=click.IntRange(2, 1000), required=True, help="Evaluations of a run.")
@click.option(
    "-o", "--out", required=True, type=click.Path(dir_okay=False, path_type=Path),
    help="The calibration, a .safetensors file.",
)  # fmt: skip
@click.option("--samples", type=click.IntRange(1, MOST), default=10, show_default=True,
              help="Images of the uncached runs.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1, MOST), help="Images of one run.  [all]")
@click.option("--lookback", type=click.IntRange(1, 32), default=3, show_default=True,
              help="How many evaluations back reuse is measured.")  # fmt: skip
@click.option("--granularity", type=click.Choice(("branch", "block")), default="branch",
              show_default=True, help="Branches, for SmoothCache; blocks, for Block Caching and "
              "MagCache.")  # fmt: skip
@click.option("--prior", is_flag=True, help="Keep the mean output of every branch, for EOC.")
@click.option("--held-out", type=click.IntRange(0, MOST), default=0, show_default=True,
              help="Further images that judge the prior, with --prior.")  # fmt: skip
@click.option("--seed", type=SEED, default=0, show_default=True)
@cfg_scale_option
@num_heads_option
@key_option
@device_option
@force_option
def calibrate_command(
    weights: str,
    out: Path,
    num_heads: int | None,
    key: str,
    device: str,
    force: bool,
    **options: Any,
) -> None:
    """Measure how far the outputs of branches or blocks change between the steps of full runs."""
    if out.suffix != ".safetensors":
        refuse("--out", f"{out}: a calibration is a .safetensors file; name it so")
    check_writable("--out", out, force)
    if options["held_out"] and not options["prior"]:
        refuse("--held-out", "judges a prior; give --prior with it")
    check_weights(weights)
    check_device(device)
    loaded = load(weights, "", num_heads, key)
    loaded.model.to(device)
    from tqdm import tqdm

    from l2c_rt.calibration.calibrate import calibrate

    with tqdm(desc="calibrate", unit="evaluation") as bar, fitting():

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        calibration = calibrate(loaded.model, out=out, progress=progress, **options)
    click.echo(f"{out}\n{calibration}")
