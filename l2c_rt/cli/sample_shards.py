"""`l2c-rt sample --count`: a set of samples in a folder of shards, by any number of processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from l2c_rt.cli.checks import check_folder
from l2c_rt.cli.exits import fitting, reading, refuse
from l2c_rt.cli.models import Loaded, noise
from l2c_rt.cli.options import MOST

if TYPE_CHECKING:
    from torch import Tensor

    from l2c_rt.runtime.compiled import Compiled
    from l2c_rt.serving.shard_folder import ShardFolder

MOST_SAMPLES = 10**9
MOST_SHARDS = 10**6


@dataclass(frozen=True, slots=True)
class SetOptions:
    """Of a set: `count` images, `shard_size` of them in a file, `batch` in a run."""

    count: int | None
    shard_size: int | None
    batch: int | None


def set_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--count, --shard-size and --batch, as `sizes`."""

    @click.option(
        "--count", type=click.IntRange(1, MOST_SAMPLES),
        help="Write so many images, from the seeds after --seed and the labels in turn, as a "
        "folder of shards.  Under torchrun ranks share them; what is there is not made again.",
    )  # fmt: skip
    @click.option(
        "--shard-size", type=click.IntRange(1, MOST), help="With --count: images a file.  [64]"
    )
    @click.option("--batch", type=click.IntRange(1, MOST), help="With --count: images a run.  [8]")
    @wraps(command)
    def run(count: int | None, shard_size: int | None, batch: int | None, **rest: Any) -> Any:
        return command(sizes=SetOptions(count, shard_size, batch), **rest)

    return run


def check_set(sizes: SetOptions, outs: tuple[Path, ...], seed: int, force: bool) -> None:
    """End with a usage error for options that do not go with --count, or need it."""
    if sizes.count is None:
        for option, value in (("--shard-size", sizes.shard_size), ("--batch", sizes.batch)):
            if value is not None:
                refuse(option, "is for a set of images; give --count as well")
        return
    if len(outs) != 1 or outs[0].suffix:
        refuse("--out", f"with --count, one folder; got {', '.join(map(str, outs))}")
    if force:
        refuse("--force", "a folder of shards is only gone on with; delete it to begin anew")
    if seed + sizes.count > 2**63:
        refuse("--count", f"no {sizes.count} seeds from {seed} on; the last is 2^63 - 1")
    if -(-sizes.count // (sizes.shard_size or 64)) > MOST_SHARDS:
        refuse("--shard-size", f"more than {MOST_SHARDS} files; give a larger one")
    check_folder("--out", outs[0])


def local_device(device: str) -> str:
    """The GPU of this rank for "cuda", where torchrun says which."""
    local = os.environ.get("LOCAL_RANK", "")
    return f"{device}:{local}" if device == "cuda" and local.isdecimal() else device


def sample_set(
    loaded: Loaded, fast: Compiled, folder: Path, sizes: SetOptions, *, labels: list[int],
    seed: int, cfg_scale: float | None,
) -> None:  # fmt: skip
    """Fill the folder, as far as others do not."""
    from l2c_rt.adapters.model_fingerprint import weights_digest
    from l2c_rt.serving.shard_folder import ShardFolder, ShardRanges, rank_and_world

    assert sizes.count is not None
    rank, world = rank_and_world(os.environ)
    options = {
        "batch": sizes.batch or 8, "seed": seed, "labels": labels, "cfg_scale": cfg_scale,
        "schedule": fast.schedule.digest, "weights": weights_digest(loaded.model),
        "backend": fast.summary().backend, "device": loaded.bound_model.device.type,
    }  # fmt: skip
    with reading():
        shards = ShardFolder(folder, ShardRanges(sizes.count, sizes.shard_size or 64), options)
    maker = ShardMaker(loaded, fast, labels, seed, cfg_scale)
    made = 0
    for shard in shards.claims(rank, world):
        shards.write(shard, maker.content(shards, shard, sizes.batch or 8))
        made += 1
    click.echo(f"{folder}: {shards.finished()} of {len(shards.ranges)} shards, {made} made now")


@dataclass(frozen=True, slots=True)
class ShardMaker:
    """Sample i is that of seed `seed` + i and label i modulo their number, whoever makes it."""

    loaded: Loaded
    fast: Compiled
    labels: list[int]
    seed: int
    cfg_scale: float | None

    def content(self, shards: ShardFolder, shard: int, batch: int) -> bytes:
        """A safetensors file of latents [n, C, H, W] in float32, labels [n] and seeds [n]."""
        import numpy as np
        import torch
        from safetensors.numpy import save

        samples = shards.ranges.samples(shard)
        # Always the same batches, since sums depend on their size.
        runs = [self._run(samples[i : i + batch]) for i in range(0, len(samples), batch)]
        values = {
            "latents": torch.cat(runs).float().cpu().numpy(),
            "labels": np.array([self._label(i) for i in samples], np.int64),
            "seeds": np.array([self.seed + i for i in samples], np.int64),
        }
        return save(values, metadata=shards.metadata(shard))

    def _run(self, samples: range) -> Tensor:
        import torch

        start = torch.cat([noise(self.loaded, 1, self.seed + i) for i in samples])
        start = start.to(self.loaded.bound_model.device)
        labelled = self.loaded.sampling.classes > 0
        labels = [self._label(i) for i in samples] if labelled else None
        with fitting():
            return self.fast.sample(start, labels, self.cfg_scale)

    def _label(self, sample: int) -> int:
        return self.labels[sample % len(self.labels)]
