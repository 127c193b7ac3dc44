"""`l2c-rt demo`: the digits, sampled and measured, and how their model was trained."""

from __future__ import annotations

from pathlib import Path

import click

from l2c_rt.cli.checks import check_folder, require_package

EXAMPLES = """\b
Examples:
  l2c-rt demo
  l2c-rt demo --out my-demo --seed 1
  l2c-rt demo train --out trained --steps 6000
"""


@click.group(
    "demo",
    invoke_without_command=True,
    epilog=EXAMPLES,
    short_help="Sample and measure the digits.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for the pictures and the report.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.pass_context
def demo_command(ctx: click.Context, out: Path, seed: int) -> None:
    """Sample digits with and without the cache and write a report with pictures.

    Needs scikit-learn (for the real digits) and matplotlib.
    """
    if ctx.invoked_subcommand is not None:
        return
    _check(out, "sklearn", "matplotlib", "torchmetrics")
    from l2c_rt.demo.run import DemoSettings, run_demo

    click.echo(run_demo(out, DemoSettings(seed=seed)))


TRAIN_EXAMPLES = """\b
Examples:
  l2c-rt demo train
  l2c-rt demo train --out trained --steps 3000 --seed 1
"""


@demo_command.command("train", epilog=TRAIN_EXAMPLES)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-train"),
    show_default=True,
    help="Folder for weights, log and checkpoint; a checkpoint in it is taken up again.",
)
@click.option("--steps", type=click.IntRange(1), default=6000, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
def train_command(out: Path, steps: int, seed: int) -> None:
    """Train the digits model from scratch."""
    _check(out, "sklearn")
    from l2c_rt.demo.train import train_digits

    click.echo(str(train_digits(out, steps, seed)))


def _check(out: Path, *packages: str) -> None:
    """End before torch is imported where there are no digits, or no place for what is made."""
    check_folder("--out", out)
    for package in packages:
        require_package(package, "the demo", "'l2c-rt[demo]'")
