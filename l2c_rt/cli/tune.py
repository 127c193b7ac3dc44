"""`l2c-rt tune`: the products and attention of a model measured ahead, and the file to ship."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from l2c_rt.cli.checks import check_writable, device_name
from l2c_rt.cli.exits import fitting, reading, refuse
from l2c_rt.cli.models import check_device
from l2c_rt.cli.options import MOST, WIDEST, cut_options, force_option
from l2c_rt.cli.sources import METAVAR, Threshold, read_source

if TYPE_CHECKING:
    from l2c_rt.schedule.cache_schedule import CacheSchedule

EXAMPLES = """\b
Examples:
  l2c-rt tune l2c/dit-xl-2-256/ddim-50 --width 1152 --batch 1 --batch 8 -o tune.json
  l2c-rt tune --install tune.json
"""


@click.command("tune", epilog=EXAMPLES, short_help="Measure ahead what a first run would.")
@click.argument("source", metavar=METAVAR, required=False)
@cut_options
@click.option("--width", type=click.IntRange(4, WIDEST), default=384, show_default=True)
@click.option("--input-size", type=click.IntRange(2, MOST), default=32, show_default=True)
@click.option(
    "--batch", "batches", type=click.IntRange(1, MOST), multiple=True, default=(1,),
    show_default=True, help="Images of a run; may be repeated.",
)  # fmt: skip
@click.option(
    "--device", callback=device_name, help="A torch device; default cuda if there is one, else cpu."
)
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Also a file to ship."
)
@click.option(
    "--install", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="Take what was measured elsewhere; it counts on machines like that one only.",
)  # fmt: skip
@force_option
def tune_command(
    source: str | None,
    cut: Threshold,
    width: int,
    input_size: int,
    batches: tuple[int, ...],
    device: str | None,
    out: Path | None,
    install: Path | None,
    force: bool,
) -> None:
    """Measure how each product and attention is computed fastest on this machine, and keep it.

    A model of the schedule's family and depth with random weights is run once for each --batch, in
    bfloat16 on a GPU.  Later runs of these shapes, of any weights, measure nothing.
    """
    if source is None and install is None:
        refuse("SOURCE", "a schedule says which model is meant; or give --install")
    from l2c_rt.backends.tuning.cache_file import default_path, merge_files

    kept = default_path()
    if kept is None:
        refuse("--install" if install else "SOURCE", "this user has no cache folder; set HOME")
    if out is not None:
        check_writable("--out", out, force)
    if install is not None:
        with reading():
            click.echo(f"{merge_files(install, kept)} choices of {install} are in {kept}")
        return
    assert source is not None
    schedule = read_source(source).schedule(cut)
    if not schedule.family:
        refuse("SOURCE", f"{source} names no model family")
    for batch in batches:
        _run_once(schedule, width, input_size, batch, device)
    if out is not None:
        with reading():
            click.echo(f"{merge_files(kept, out)} choices are in {out}")


def _run_once(
    schedule: CacheSchedule, width: int, input_size: int, batch: int, device: str | None
) -> None:
    import torch

    from l2c_rt.api import compile
    from l2c_rt.cli.models import noise, random_model

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    with fitting():
        loaded = random_model(schedule.family, schedule.num_branches // 2, width, input_size)
        dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
        loaded.model.to(device, dtype)
        fast = compile(loaded.model, schedule, backend="fused")
        classes = loaded.sampling.classes
        labels = torch.arange(batch, device=device) % classes if classes else None
        fast.sample(noise(loaded, batch, seed=0).to(device), labels)
    click.echo(f"{batch} images: {fast.summary()}")
