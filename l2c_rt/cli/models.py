"""The model that a command runs: a weights file, or the digits model of the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from l2c_rt.cli.checks import DIGITS
from l2c_rt.cli.exits import BadInput, NoFit, fitting, reading, refuse
from l2c_rt.families import DIT, UVIT, display_name, family_named

if TYPE_CHECKING:
    import torch
    from torch import nn

    from l2c_rt.adapters.bound_model import BoundModel, PublishedLoop


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in eval mode with what its published loop needs."""

    model: nn.Module
    bound_model: BoundModel
    sampling: PublishedLoop


def load(name: str, family: str, num_heads: int | None = None, key: str = "") -> Loaded:
    """Load weights of that family, or of the one that the file fits where `family` is ""."""
    return _described(_model(name, family, num_heads, key))


def random_model(family: str, blocks: int, width: int, input_size: int) -> Loaded:
    """A model of this family and size with untrained weights; patches of 2 x 2, 4 channels."""
    from l2c_rt.models import DiT, UViT

    known = family_named(family)
    depth = blocks - known.blocks_beside_depth
    if known is UVIT and depth % 2:
        raise ValueError(f"the schedule has {blocks} blocks, and a U-ViT an odd number")
    heads = width // 64 if width % 64 == 0 else 4
    makers: dict[str, Callable[..., nn.Module]] = {
        DIT.name: DiT,
        UVIT.name: partial(UViT, num_classes=1001, conv=False),
    }
    return _described(makers[known.name](input_size, 2, 4, width, depth, heads).eval())


def check_device(device: str) -> None:
    """End with a usage error where torch has no such device; before a model is loaded for it."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        refuse("--device", f"{device}: {str(error).splitlines()[0]}")


def _described(model: nn.Module) -> Loaded:
    from l2c_rt.adapters import bind

    with fitting():
        bound_model = bind(model)
        sampling = bound_model.sampling
        if sampling is None:
            raise ValueError(f"no published loop for {type(model).__name__}")
    return Loaded(model, bound_model, sampling)


def noise(loaded: Loaded, count: int, seed: int) -> torch.Tensor:
    """The same noise on every device.  Shapes: [count, C, H, W]."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    loop = loaded.sampling
    return torch.randn((count, loop.channels, loop.size, loop.size), generator=generator)


def _model(name: str, family: str, num_heads: int | None, key: str) -> nn.Module:
    from l2c_rt.models import load_dit, load_uvit

    if name == DIGITS:
        from l2c_rt.demo.shipped import load_demo_model

        return load_demo_model()
    if Path(name).is_dir():
        from l2c_rt.models import load_diffusers

        with reading():
            return load_diffusers(name).requires_grad_(False)
    loaders: dict[str, Callable[..., nn.Module]] = {DIT.name: load_dit, UVIT.name: load_uvit}
    refusals = []
    # The schedule's own family first, so that its refusal is the one that is told.
    for candidate in sorted(loaders, key=lambda candidate: candidate != family):
        try:
            with reading():
                model = loaders[candidate](name, num_heads=num_heads, key=key).requires_grad_(False)
        except BadInput as failure:
            refusals.append(failure)
            continue
        if family not in ("", candidate):
            holds, wants = display_name(candidate), display_name(family)
            raise NoFit(ValueError(f"{name} holds a {holds}, the schedule is for a {wants}"))
        return model
    raise refusals[0]
