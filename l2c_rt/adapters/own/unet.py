"""U-Nets of diffusers as nested shells, for DeepCache.

Shell q is the down layer that makes skip q (conv_in for shell 0) and the up layer that reads it;
"mid" lies inside the last shell.  What a shell hands to the one around it is one tensor, the output
of its up layer.  Blocks are cut points too: one whose shells are all left out is not called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from l2c_rt.adapters.bound_model import BoundModel, State
from l2c_rt.adapters.own.describe import (
    AFTER,
    BEFORE,
    argument,
    argument_names,
    describe_own,
    matrix_weights,
)
from l2c_rt.adapters.own.sites import Site
from l2c_rt.adapters.wrappers import find_wrapped
from l2c_rt.plan.program import BlockProgram, Branch, Fixed, Node

LAYER_LISTS = ("resnets", "temp_convs", "attentions", "temp_attentions", "motion_modules")
"""The lists of a block that have one module per layer, in the order in which a layer calls them."""

FIRST = ("conv_in", "transformer_in")
BLOCKS = ("down_blocks", "up_blocks")
SAMPLERS = ("downsamplers", "upsamplers")
RESIDUALS = "down_block_additional_residuals"
MID_RESIDUAL = "mid_block_additional_residual"
T2I_RESIDUALS = "down_intrablock_additional_residuals"
BETWEEN_FRAMES = re.compile("temp_|temporal|motion")
FREEU = ("s1", "s2", "b1", "b2")

Layer = tuple[str, ...]
"""Paths of modules in the order of their calls; the last one's output is the layer's."""


def matches(model: nn.Module) -> bool:
    """Whether the model has lists of down and up blocks made of resnets."""
    lists = [model._modules.get(name) for name in BLOCKS]
    return all(
        isinstance(blocks, nn.ModuleList)
        and len(blocks) > 0
        and all("resnets" in block._modules for block in blocks)
        for blocks in lists
    )


def describe_unet(model: nn.Module) -> BoundModel:
    """The model's own forward, cut at the layers of its shells.

    Raises TypeError for a model that is not a U-Net of such blocks, saying what is different;
    a call with the residuals of a T2I adapter raises ValueError.
    """
    sites = _shells(model)
    described = describe_own(model, sites)
    blocks = list(model.get_submodule("up_blocks").children())
    begin = partial(_begin, described.begin, argument_names(model), blocks)
    return replace(described, program=_program(model, sites), begin=begin)


def _shells(model: nn.Module) -> tuple[Site, ...]:
    kind = type(model).__name__
    if not isinstance(model, nn.Module) or not matches(model):
        wrapped = find_wrapped(model, matches) if isinstance(model, nn.Module) else ""
        remedy = f"; it wraps one: compile({wrapped}, ...)" if wrapped else ""
        raise TypeError(
            f"compile: shells are those of a U-Net with down_blocks and up_blocks made of resnets; "
            f"{kind} has none{remedy}"
        )
    down = [tuple(name for name in FIRST if model._modules.get(name) is not None)]
    down += [layer for path, block in _blocks(model, "down_blocks") for layer in _down(path, block)]
    up = [layer for path, block in _blocks(model, "up_blocks") for layer in _up(path, block)]
    if len(up) != len(down) or not down[0]:
        raise TypeError(
            f"compile: {kind} has {len(down)} layers going down, conv_in included, of which each "
            f"makes a skip, and {len(up)} layers going up; wanted one for each skip"
        )
    outside_in = zip(down, reversed(up), strict=True)
    sites = [Site(f"shell-{q}", before + after) for q, (before, after) in enumerate(outside_in)]
    if model._modules.get("mid_block") is not None:
        sites.append(Site("mid", ("mid_block",)))
    return tuple(sites)


def _blocks(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    return ((f"{name}.{i}", block) for i, block in model.get_submodule(name).named_children())


def _down(path: str, block: nn.Module) -> Iterator[Layer]:
    """The layers of a down block, with the first of them the block itself; its sampler makes a
    skip, so it is a layer of its own."""
    first, *layers = _layers(path, block)
    yield (path, *first)
    yield from layers
    if sampler := _samplers(path, block):
        yield sampler


def _up(path: str, block: nn.Module) -> Iterator[Layer]:
    """The layers of an up block; to the last of them belong its sampler and the block itself."""
    *layers, last = _layers(path, block)
    yield from layers
    yield (*last, *_samplers(path, block), path)


def _layers(path: str, block: nn.Module) -> list[Layer]:
    children = {name: child for name, child in block.named_children() if name not in SAMPLERS}
    lists = {name: children[name] for name in LAYER_LISTS if name in children}
    unknown = [name for name in children if name not in LAYER_LISTS]
    counts = {name: len(list(modules.children())) for name, modules in lists.items()}
    if unknown or len(set(counts.values())) != 1 or 0 in counts.values():
        other = f"{', '.join(unknown)} beside its layers" if unknown else f"lists of {counts}"
        raise TypeError(
            f"compile: {path} is a {type(block).__name__} with {other}; wanted only lists of one "
            f"module per layer, of {', '.join(LAYER_LISTS)}, and {' or '.join(SAMPLERS)}"
        )
    layers = range(counts["resnets"])
    return [tuple(f"{path}.{name}.{i}" for name in lists) for i in layers]


def _samplers(path: str, block: nn.Module) -> Layer:
    return tuple(
        f"{path}.{name}.{i}"
        for name in SAMPLERS
        if block._modules.get(name) is not None
        for i, _ in block.get_submodule(name).named_children()
    )


def _begin(
    begin: Callable[..., State], names: Sequence[str], up_blocks: list[nn.Module], /,
    *args: Any, **kwargs: Any,
) -> State:  # fmt: skip
    def given(name: str) -> bool:
        return argument((name,), names, args, kwargs) is not None

    if given(T2I_RESIDUALS) or (given(RESIDUALS) and not given(MID_RESIDUAL)):
        name = T2I_RESIDUALS if given(T2I_RESIDUALS) else RESIDUALS
        raise ValueError(
            f"{name}: a T2I adapter adds to the outputs of down blocks in place, and a cached step "
            "does not run them; use a ControlNet, or the model itself"
        )
    state = begin(*args, **kwargs)
    # FreeU scales the input of an up layer in place.
    state.options["writes_kept"] = any(
        getattr(block, name, None) for block in up_blocks for name in FREEU
    )
    return state


def _program(model: nn.Module, sites: Sequence[Site]) -> BlockProgram:
    """MACs at the resolution that the model was made for, or at 64 x 64; attention is counted
    within an image, not to the text or between frames."""
    size = getattr(getattr(model, "config", None), "sample_size", None) or 64
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    blocks = {path for name in BLOCKS for path, _ in _blocks(model, name)}
    nodes: list[Node] = []
    level = 0
    for q, site in enumerate(sites):
        level += any("downsamplers" in path for path in site.children)
        macs = attention = weights = 0
        for path in [path for path in site.children if path not in blocks]:
            module = model.get_submodule(path)
            # An upsampler's convolution sees the resolution above.
            i = max(0, level - ("upsamplers" in path))
            positions = (height >> i) * (width >> i)
            macs += positions * matrix_weights(module)
            weights += matrix_weights(module)
            attention += 2 * positions**2 * _attention_width(path, module)
        nodes.append(
            Branch(site.name, site.name.partition("-")[0], q, gated=False, macs=max(macs, 1),
                   attention_macs=attention, weights=weights, activations=0, kernels=0,
                   nested=q > 0)
        )  # fmt: skip
    last = model._modules.get("conv_out")
    after = 0 if last is None else matrix_weights(last)
    # Embeddings of the timestep and the like, once per image.
    before = matrix_weights(model) - sum(node.weights for node in nodes) - after
    ends = Fixed(BEFORE, macs=before, weights=before), Fixed(AFTER, height * width * after, after)
    return BlockProgram(type(model).__name__, (ends[0], *nodes, ends[1]), tokens=1, width=1)


def _attention_width(path: str, module: nn.Module) -> int:
    """Widths of the attentions of an image's positions to each other, summed."""
    return sum(
        inner.to_q.out_features
        for name, inner in module.named_modules()
        if isinstance(getattr(inner, "to_q", None), nn.Linear)
        and not getattr(inner, "is_cross_attention", False)
        and not BETWEEN_FRAMES.search(f"{path}.{name}")
    )
