"""`l2c-rt compare`: a router at several shares of reuse, beside other methods of equal compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from l2c_rt.cli.checks import (
    DIGITS,
    WEIGHTS_METAVAR,
    check_picture,
    check_weights,
    device_option,
)
from l2c_rt.cli.exits import fitting, refuse
from l2c_rt.cli.models import Loaded, check_device, load
from l2c_rt.cli.options import (
    MOST,
    SEED,
    FiniteFloat,
    backend_option,
    cfg_scale_option,
    force_option,
    json_option,
    key_option,
    num_heads_option,
)
from l2c_rt.cli.sources import DIGITS_ROUTERS, METAVAR, Source, Threshold, read_source
from l2c_rt.cli.vae import find_vae, load_vae, vae_option

if TYPE_CHECKING:
    from l2c_rt.compare.compare import Decode
    from l2c_rt.compare.comparison import Comparison
    from l2c_rt.schedule.cache_schedule import CacheSchedule

EXAMPLES = """\b
Examples:
  l2c-rt compare digits/ddim-20 --reuse 0.25,0.45,0.65 --out compare.png
  l2c-rt compare my-router.safetensors --weights my-dit.safetensors --reuse 0.3,0.6
  l2c-rt compare l2c/dit-xl-2-256/ddim-50 --weights DiT-XL-2-256x256.pt \\
      --vae stabilityai/sd-vae-ft-ema --device cuda --images 16 --json
"""


def parse_shares(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[float, ...] | None:
    """Shares from 0 to 1, separated by commas."""
    if value is None:
        return None
    share = FiniteFloat(0, 1)
    return tuple(share.convert(part.strip(), param, ctx) for part in value.split(","))


@click.command("compare", epilog=EXAMPLES, short_help="A router beside methods of equal compute.")
@click.argument("router", metavar=METAVAR)
@click.option(
    "--reuse", "shares", callback=parse_shares, metavar="SHARE,...",
    help="Router only: shares to reuse of the branches that may be; default as published.",
)  # fmt: skip
@click.option(
    "--weights", metavar=WEIGHTS_METAVAR, help="The model; known for the routers of the digits."
)
@num_heads_option
@key_option
@click.option("--images", type=click.IntRange(1, MOST), default=8, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="Timed runs.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of noise and random reuse.")
@cfg_scale_option
@backend_option
@device_option
@vae_option
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), metavar="PNG",
    help="Draw error against compute (matplotlib).",
)  # fmt: skip
@force_option
@json_option
def compare_command(
    router: str,
    shares: tuple[float, ...] | None,
    weights: str | None,
    num_heads: int | None,
    key: str,
    device: str,
    vae: str | None,
    out: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare a router with every-N, random and noisiest-first reuse, and with the full model.

    Every row starts from the same noise, and all rows of a share compute as many branches.  Error
    is that of the final latents against the full run's; PSNR is that of the images, where the
    latents are images or --vae decodes them.  `bench` times more carefully.
    """
    if out is not None:
        check_picture("--out", out, force)
    vae_source = None if vae is None else find_vae(vae)
    origin = read_source(router)
    schedules = _schedules(origin, shares)
    weights = weights or (DIGITS if router in DIGITS_ROUTERS else None)
    if weights is None:
        refuse("--weights", f"needed for {router}: the model to run it on")
    check_weights(weights)
    check_device(device)
    loaded = load(weights, schedules[0].family, num_heads, key)
    channels = loaded.sampling.channels
    decode: Decode | None = (lambda latents: latents) if channels in (1, 3) else None
    if vae_source is not None:
        decode = load_vae(vae_source, channels, device)
    loaded.model.to(device)
    name = "this schedule" if origin.kind.endswith("schedule") else "learned"
    comparison = _compared(loaded, schedules, name, decode, options)
    if out is not None:
        comparison.plot(out)
    fields = {"router": router, "weights": weights} | comparison.as_dict()
    click.echo(json.dumps(fields, indent=1, allow_nan=False) if as_json else str(comparison))


def _schedules(origin: Source, shares: tuple[float, ...] | None) -> list[CacheSchedule]:
    if shares is None:
        return [origin.schedule(Threshold())]
    return [origin.schedule(Threshold(reuse=share)) for share in dict.fromkeys(shares)]


def _compared(
    loaded: Loaded,
    schedules: list[CacheSchedule],
    name: str,
    decode: Decode | None,
    options: dict[str, Any],
) -> Comparison:
    from tqdm import tqdm

    from l2c_rt.compare.compare import compare
    from l2c_rt.compare.methods import equal_compute

    methods = equal_compute(name, options["seed"])
    total = 1 + len(schedules) * len(methods)
    with tqdm(total=total, desc="compare", unit="row") as bar, fitting():
        return compare(
            loaded.model, schedules, methods, decode=decode, advance=bar.update, **options
        )
