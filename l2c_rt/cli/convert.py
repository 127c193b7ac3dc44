"""`l2c-rt convert`: from one file format to another."""

from __future__ import annotations

import json
from pathlib import Path

import click

from l2c_rt.cli.checks import check_writable
from l2c_rt.cli.exits import refuse
from l2c_rt.cli.options import cut_options, force_option, smoothcache_options
from l2c_rt.cli.sources import SmoothCacheHeader, Source, Threshold, read_source
from l2c_rt.untrusted.atomic_write import write_whole

FORMATS = ("router", "schedule", "smoothcache")
SUFFIXES = {"router": ".safetensors", "schedule": ".json", "smoothcache": ".json"}

EXAMPLES = """\b
Examples:
  l2c-rt convert DDIM50_router.pt ddim-50.safetensors
  l2c-rt convert DDIM50_router.pt ddim-50.json --reuse 0.45
  l2c-rt convert l2c/dit-xl-2-256/ddim-20 smooth.json --to smoothcache
  l2c-rt convert smooth.json ddim-20.json --family dit --sampler ddim
"""


@click.command("convert", epilog=EXAMPLES)
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--to",
    "target_format",
    type=click.Choice(FORMATS),
    help="Format of OUT; by default .safetensors is a router and .json a schedule.",
)
@cut_options
@smoothcache_options
@force_option
def convert_command(
    source: str,
    target: Path,
    target_format: str | None,
    cut: Threshold,
    left_out: SmoothCacheHeader,
    force: bool,
) -> None:
    """Write a router, schedule or preset in another format.

    IN is a published router (.pt, .pth), a router of ours (.safetensors), a schedule or SmoothCache
    file (.json), or a preset's name.
    """
    target_format = _format(target, target_format)
    check_writable("OUT", target, force)
    origin = read_source(source, left_out)
    if target_format == "router":
        _write_router(origin, target, cut)
    else:
        _write_schedule(origin, target, target_format, cut)


def _format(target: Path, target_format: str | None) -> str:
    by_suffix = {".safetensors": "router", ".json": "schedule"}
    target_format = target_format or by_suffix.get(target.suffix)
    if target_format is None:
        refuse("OUT", f"{target} ends in none of {', '.join(by_suffix)}")
    if target.suffix != SUFFIXES[target_format]:
        refuse(
            "OUT",
            f"a {target_format} file ends in {SUFFIXES[target_format]}, this is {target.name}",
        )
    return target_format


def _write_router(origin: Source, target: Path, cut: Threshold) -> None:
    if origin.router is None:
        refuse("OUT", f"a router file needs scores, and IN is a {origin.kind}; write a .json")
    if cut.option:
        refuse(cut.option, "a router file keeps all scores; cut them when the schedule is made")
    origin.router.save(target)
    rows, columns = origin.router.logits.shape
    click.echo(f"{target}: {origin.router.family} router, scores [{rows}, {columns}]")


def _write_schedule(origin: Source, target: Path, target_format: str, cut: Threshold) -> None:
    schedule = origin.schedule(cut)
    if target_format == "schedule":
        schedule.save(target)
    else:
        write_whole(target, json.dumps(schedule.to_smoothcache()) + "\n")
    computed = int(schedule.compute.sum())
    click.echo(
        f"{target}: {target_format}, {schedule.steps} steps x {schedule.num_branches} branches, "
        f"{computed} of {schedule.compute.size} computed"
    )
