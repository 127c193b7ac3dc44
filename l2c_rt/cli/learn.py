"""`l2c-rt learn`: the router of your own model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from l2c_rt.cli.checks import (
    WEIGHTS_METAVAR,
    check_file,
    check_folder,
    check_weights,
    device_option,
)
from l2c_rt.cli.exits import fitting, refuse
from l2c_rt.cli.models import Loaded, check_device, load
from l2c_rt.cli.options import MOST, SEED, FiniteFloat, key_option, num_heads_option

if TYPE_CHECKING:
    from torch import Tensor

    from l2c_rt.policies.router import Router

EXAMPLES = """\b
Examples:
  l2c-rt learn digits --steps 20 --out digits-20
  l2c-rt learn my-dit.safetensors --steps 50 --reuse 0.6 --out router-50
  l2c-rt learn my-dit.safetensors --steps 50 --data latents.safetensors \\
      --batch-size 64 --lam 1e-6 --lr 1e-3 --iterations 50000 --out router-50
  torchrun --no-python --nproc-per-node 4 l2c-rt learn ... --device cuda
"""


@click.command("learn", epilog=EXAMPLES)
@click.argument("weights", metavar=WEIGHTS_METAVAR)
@click.option("--steps", type=click.IntRange(2, 1000), required=True, help="Evaluations of a run.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the router, its fit report, log, pictures and checkpoint.",
)
@click.option(
    "--data",
    metavar="FILE",
    help="A .safetensors with latents [N, C, H, W] and labels [N]; without it, the model's own "
    "trajectories from noise.",
)
@click.option("--reuse", type=FiniteFloat(0, 1), help="Share to reuse.  [0.45 without --lam]")
@click.option("--lam", type=FiniteFloat(0), help="The published penalty, instead of --reuse.")
@click.option("--iterations", type=click.IntRange(1), help="Default: 120 visits of every row.")
@click.option("--batch-size", type=click.IntRange(1, MOST), default=4, show_default=True)
@click.option("--lr", type=FiniteFloat(0), help="Default: fits the number of iterations.")
@click.option("--straight-through", type=FiniteFloat(0, 1), help="Binarise in the forward.")
@click.option(
    "--cfg-scale", type=FiniteFloat(), help="Guidance of the trajectories; default as published."
)
@click.option("--seed", type=SEED, default=0, show_default=True)
@num_heads_option
@key_option
@device_option
@click.option("--report", type=click.IntRange(0, MOST), default=8, show_default=True,
              help="Images of the fit report; 0 leaves it out.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Take up the checkpoint in the folder, if any.")
@click.option("--force", is_flag=True, help="Begin anew although the folder has a router.")
def learn_command(
    weights: str,
    steps: int,
    out: Path,
    data: str | None,
    num_heads: int | None,
    key: str,
    device: str,
    report: int,
    resume: bool,
    force: bool,
    **options: Any,
) -> None:
    """Learn which branches may be reused, by Learning-to-Cache's objective.

    Ends with a fit report: the error of the cached run against the full run, beside random,
    every-N and noisiest-first schedules of equal compute.
    """
    check_folder("--out", out)
    if (out / "router.safetensors").exists() and not (resume or force):
        refuse("--out", f"{out} has a router already; give --resume, --force or another folder")
    check_weights(weights)
    if data is not None:
        check_file(data)
        if options["cfg_scale"] is not None:
            refuse("--cfg-scale", "the published procedure on --data has no guidance")
    with _processes(device) as (first, own_device):
        check_device(own_device)
        loaded = load(weights, "", num_heads, key)
        batches = None if data is None else read_batches(data, loaded, options)
        loaded.model.to(own_device)
        from l2c_rt.learning import learn

        with fitting():
            router = learn(
                loaded.model, steps=steps, data=batches, out=out, resume=resume, report=0, **options
            )
    if first:
        click.echo(str(out / "router.safetensors"))
        _tell(loaded, router, out, report, options)


def read_batches(path: str, loaded: Loaded, options: dict[str, Any]) -> list[Any]:
    """The file's latents and labels in batches, in an order drawn by the seed."""
    import torch

    from l2c_rt.cli.exits import NoFit, reading

    loop = loaded.sampling
    with reading():
        latents, labels = _tensors(path)
    if tuple(latents.shape[1:]) != (loop.channels, loop.size, loop.size):
        shape = f"[N, {loop.channels}, {loop.size}, {loop.size}]"
        raise NoFit(ValueError(f"{path}: latents are {list(latents.shape)}, wanted {shape}"))
    if not 0 <= int(labels.min()) <= int(labels.max()) < loop.classes:
        raise NoFit(ValueError(f"{path}: labels are not within 0..{loop.classes - 1}"))
    size = options["batch_size"]
    if len(latents) < size:
        refuse("--batch-size", f"{path} has {len(latents)} latents, less than one batch of {size}")
    order = torch.randperm(len(latents), generator=torch.Generator().manual_seed(options["seed"]))
    starts = range(0, len(order) - size + 1, size)
    batches = [order[start : start + size] for start in starts]
    return [(latents[batch], labels[batch]) for batch in batches]


def _tensors(path: str) -> tuple[Tensor, Tensor]:
    from l2c_rt.models.weight_files import read_tensors

    latents, labels = read_tensors(Path(path), ("latents", "labels"))
    sound = latents.is_floating_point() and not labels.is_floating_point()
    if latents.dim() != 4 or not sound or labels.shape != latents.shape[:1] or not len(labels):
        raise ValueError(
            f"{path}: latents are {list(latents.shape)} {latents.dtype}, labels "
            f"{list(labels.shape)} {labels.dtype}; wanted floats [N, C, H, W] and integers [N]"
        )
    if not bool(latents.isfinite().all()):
        raise ValueError(f"{path}: latents hold numbers that are not finite")
    return latents, labels.long()


@contextmanager
def _processes(device: str) -> Iterator[tuple[bool, str]]:
    """Whether this process is the first, and its device; joins the others under torchrun."""
    import torch
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield True, device
        return
    if device == "cuda":
        device = f"cuda:{dist.get_node_local_rank()}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield dist.get_rank() == 0, device
    finally:
        dist.destroy_process_group()


def _tell(loaded: Loaded, router: Router, out: Path, images: int, options: dict[str, Any]) -> None:
    click.echo(f"\n{router.schedule()}\n")
    if not images:
        return
    from l2c_rt.comparison.fit import fit_report
    from l2c_rt.learning.output import write_fit

    given = {name: options[name] for name in ("cfg_scale", "seed")}
    with fitting():
        report = write_fit(out, fit_report(loaded.model, router, images=images, **given))
    click.echo(str(report))
