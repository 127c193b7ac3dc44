"""`l2c-rt compare`: a router at several shares, beside other methods of equal compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from l2c_rt.cli.checks import (
    DIGITS,
    WEIGHTS_METAVAR,
    check_folder,
    check_picture,
    check_weights,
    device_option,
)
from l2c_rt.cli.compared_methods import Cuts, corrected, named_method
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
from l2c_rt.cli.sources import DIGITS_ROUTERS, METAVAR, read_source
from l2c_rt.cli.vae import find_vae, load_vae, vae_option

if TYPE_CHECKING:
    from l2c_rt.comparison.comparison import Comparison
    from l2c_rt.comparison.methods import Entry

EXAMPLES = """\b
Examples:
  l2c-rt compare digits/ddim-20 --reuse 0.25,0.45,0.65 --out compare.png
  l2c-rt compare my-router.safetensors --weights my-dit.safetensors --compute 0.8,0.6 \\
      --method fora --corrector Taylor:order=1 --seeds 3 --folder comparison
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


@click.command("compare", epilog=EXAMPLES, short_help="Methods beside each other, equal compute.")
@click.argument("router", metavar=METAVAR)
@click.option(
    "--reuse", "reuses", callback=parse_shares, metavar="SHARE,...",
    help="Router only: shares to reuse of the branches that may be; default as published.",
)  # fmt: skip
@click.option(
    "--compute", callback=parse_shares, metavar="SHARE,...",
    help="Shares of the full run's multiply-accumulates, in place of --reuse.",
)  # fmt: skip
@click.option(
    "--method", "methods", multiple=True, metavar="NAME[:FIELD=VALUE,...]",
    help="A further method, as in fora or EveryN:n=2; may be given several times.",
)  # fmt: skip
@click.option(
    "--corrector", "correctors", multiple=True, metavar="NAME[:FIELD=VALUE,...]",
    help="The router with a corrector too, as in Taylor:order=1; may be given several times.",
)  # fmt: skip
@click.option(
    "--weights", metavar=WEIGHTS_METAVAR, help="The model; known for the routers of the digits."
)
@num_heads_option
@key_option
@click.option("--images", type=click.IntRange(1, MOST), default=8, show_default=True)
@click.option(
    "--rounds", type=click.IntRange(0), default=1, show_default=True, help="Timed runs for a seed."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="The first one.")
@click.option("--seeds", type=click.IntRange(1, MOST), default=1, show_default=True, help="Number.")
@cfg_scale_option
@backend_option
@device_option
@vae_option
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), metavar="PNG",
    help="Draw error against compute and against time (matplotlib).",
)  # fmt: skip
@click.option(
    "--folder", type=click.Path(path_type=Path), metavar="DIR",
    help="Keep every result; the same command goes on where it stopped.",
)  # fmt: skip
@force_option
@json_option
def compare_command(
    router: str,
    reuses: tuple[float, ...] | None,
    compute: tuple[float, ...] | None,
    methods: tuple[str, ...],
    correctors: tuple[str, ...],
    weights: str | None,
    num_heads: int | None,
    key: str,
    device: str,
    vae: str | None,
    out: Path | None,
    folder: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare a router with every-N, random and noisiest-first reuse, with other methods, and with
    the full model.

    Every run of a seed starts from the same noise, and all rows of a share compute as nearly the
    same arithmetic as their method can: a row says how much.  Error is that of the final latents
    against the full run's; PSNR is that of the images, where the latents are images or --vae
    decodes them.  Each timed run is beside a full one.
    """
    if out is not None:
        check_picture("--out", out, force)
    if folder is not None:
        check_folder("--folder", folder)
    vae_source = None if vae is None else find_vae(vae)
    cuts = Cuts(read_source(router), reuses, compute)
    weights = weights or (DIGITS if router in DIGITS_ROUTERS else None)
    if weights is None:
        refuse("--weights", f"needed for {router}: the model to run it on")
    check_weights(weights)
    check_device(device)
    loaded = load(weights, cuts.schedules[0].family, num_heads, key)
    decode = None if vae_source is None else load_vae(vae_source, loaded.sampling.channels, device)
    loaded.model.to(device)
    own, *controls = cuts.entries(options["seed"])
    with_correctors = [corrected(text, own) for text in correctors]
    entries = [own, *with_correctors, *controls, *map(named_method, methods)]
    comparison = _compared(loaded, cuts, entries, {**options, "decode": decode, "folder": folder})
    if out is not None:
        comparison.plot(out)
    fields = {"router": router, "weights": weights} | comparison.as_dict()
    click.echo(json.dumps(fields, indent=1, allow_nan=False) if as_json else str(comparison))


def _compared(
    loaded: Loaded, cuts: Cuts, entries: list[Entry], options: dict[str, Any]
) -> Comparison:
    from l2c_rt.comparison.compare import compare

    first = options.pop("seed")
    seeds = range(first, first + options.pop("seeds"))
    with fitting():
        return compare(
            loaded.model, entries, compute=cuts.shares(loaded.model), seeds=seeds, **options
        )
