"""`l2c-rt inspect`: what a router or schedule does, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from l2c_rt.cli.checks import check_picture
from l2c_rt.cli.counting import ModelOptions, count, model_options
from l2c_rt.cli.options import cut_options, json_option, smoothcache_options
from l2c_rt.cli.sources import METAVAR, SmoothCacheHeader, Source, Threshold, read_source

if TYPE_CHECKING:
    from l2c_rt.schedule.cache_schedule import CacheSchedule

EXAMPLES = """\b
Examples:
  l2c-rt inspect l2c/dit-xl-2-256/ddim-20
  l2c-rt inspect DDIM50_router.pt --threshold 0.2 --plot map.png
  l2c-rt inspect my-router.safetensors --weights my-dit.safetensors
  l2c-rt inspect smoothcache.json --blocks 28 --family dit --json

\b
Presets:
  l2c/dit-xl-2-256/ddim-20    l2c/dit-xl-2-256/ddim-50
  l2c/uvit-h-2-256/dpm-20     l2c/uvit-h-2-256/dpm-50
  digits/ddim-20              digits/ddim-50 (routers of the digits model)
"""


@click.command("inspect", epilog=EXAMPLES)
@click.argument("source", metavar=METAVAR)
@cut_options
@model_options
@smoothcache_options
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="PNG", help="Draw the schedule (matplotlib)."
)
@json_option
def inspect_command(
    source: str,
    cut: Threshold,
    model: ModelOptions,
    left_out: SmoothCacheHeader,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Show a router or schedule: header, map, counts, MACs and memory.

    FILE is a published router (.pt, .pth), a router of ours (.safetensors), a schedule or
    SmoothCache file (.json).  Without options about the model, the costs are those of the
    published model of the family, DiT-XL/2 256 or U-ViT-H/2 256.
    """
    if plot is not None:
        check_picture("--plot", plot, force=True)
    origin = read_source(source, left_out)
    schedule = origin.schedule(cut)
    counted = count(schedule, model)
    if plot is not None:
        schedule.plot(plot)
    if as_json:
        import json

        fields = _fields(source, origin, schedule) | {"cost": counted.fields()}
        click.echo(json.dumps(fields, indent=1))
        return
    click.echo("\n\n".join([_header(source, origin, schedule), str(schedule), str(counted)]))


def _header(name: str, origin: Source, schedule: CacheSchedule) -> str:
    lines = [f"{origin.kind} {name}"]
    if origin.router is not None:
        rows, columns = origin.router.logits.shape
        used = len(origin.router.valid_rows())
        lines.append(f"  scores      [{rows}, {columns}], {used} rows used")
        if origin.router.training:
            lines.append(f"  training    {origin.router.training}")
    lines += [
        f"  reuse       {schedule.reuse_share:.1%} of all branch calls",
        f"  digest      {schedule.digest}",
    ]
    return "\n".join(lines)


def _fields(name: str, origin: Source, schedule: CacheSchedule) -> dict[str, Any]:
    import json

    fields: dict[str, Any] = {"name": name, "kind": origin.kind}
    for key in ("family", "sampler", "calls_per_step", "threshold", "source", "steps", "digest",
                "fingerprint"):  # fmt: skip
        fields[key] = getattr(schedule, key)
    if origin.router is not None:
        fields["training"] = json.loads(origin.router.training or "null")
        fields["router_rows"] = {str(k): row for k, row in origin.router.valid_rows().items()}
    return fields | {
        "branches": list(schedule.branches),
        "computed": schedule.compute.sum(axis=1).tolist(),
        "rows": ["".join("1" if c else "0" for c in row) for row in schedule.compute.tolist()],
        "distinct_rows": len(schedule.distinct_rows()),
        "reuse_share": schedule.reuse_share,
    }
