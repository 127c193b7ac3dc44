"""Where a model can be cut: the attention and MLP modules of its blocks, found by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from l2c_rt.adapters.wrappers import without_torch_compile

BRANCH_NAMES = re.compile(
    r"((self|cross|temp|img|txt|audio|video|audio_to_video|video_to_audio)_)?"
    r"(attn\d?|attention|ff|ffn|mlp|feed_?forward)"
    r"(_(context|moe_gen))?"
)
"""Children of a block whose outputs are kept, before the block's own gate."""

IN_PIECES = (
    ("attn", "proj_mlp", "proj_out"),
    ("gate_proj", "up_proj", "down_proj"),
    ("ff_in", "ff_out"),
)
"""Children that are one branch together: attention and MLP through one linear (Flux's single
blocks), the linears of an MLP (PRX, MiniMaxMusic3)."""

NARROW_BLOCKS = frozenset({
    "BriaFiboSingleTransformerBlock", "BriaSingleTransformerBlock", "ChromaSingleTransformerBlock",
    "FluxSingleTransformerBlock", "HunyuanImageSingleTransformerBlock",
    "HunyuanVideoSingleTransformerBlock", "LongCatImageSingleTransformerBlock",
    "MiniMaxMusic3TransformerBlock", "MotifVideoSingleTransformerBlock", "PRXBlock",
})  # fmt: skip
"""Blocks whose code between the pieces of a branch takes tensors of any width."""

BLOCK_BRANCHES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "HiDreamBlock": ("block.attn1", "block.ff_i", "block.ff_t"),
    "Kandinsky6FusedTransformerDecoderBlock": (
        "video_dec_block.self_attention", "video_dec_block.cross_attention",
        "audio_dec_block.self_attention", "audio_dec_block.cross_attention",
        "va_cross_attention", "av_cross_attention",
        "video_dec_block.feed_forward", "audio_dec_block.feed_forward",
    ),
})  # fmt: skip
"""The branches of blocks whose class the rule does not fit: paths inside the block."""

BLOCK_LISTS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "Flux3Transformer2DModel": (
        "txt_mode_blocks", "mode_blocks.image_cond", "mode_blocks.image",
        "single_transformer_blocks",
    ),
    "Lumina2Transformer2DModel": ("context_refiner", "noise_refiner", "layers"),
    "WanVACETransformer3DModel": ("vace_blocks", "blocks"),
})  # fmt: skip
"""The lists of blocks of models whose class the rule does not fit, in the order of their calls."""


@dataclass(frozen=True, slots=True)
class Site:
    """One cut point: what a branch of the program is in the model.

    `children` are paths of modules in the order in which they are called.  The last one's output is
    kept; nothing but the last reads what the others give, so on reuse they give NaN: of width 2 if
    `narrow`, where the code between them takes any width.  Of a block (`is_block`), what is kept is
    what it adds to its arguments.  A `required` site must be called at evaluation 0: the user has
    named it.
    """

    name: str
    children: tuple[str, ...]
    is_block: bool = False
    required: bool = False
    narrow: bool = False


def branch_sites(model: nn.Module) -> tuple[Site, ...]:
    """The branches of a model by the rule.

    Raises TypeError naming the lists of modules seen, where there is no list of blocks with
    attention or MLP children.
    """
    sites = [site for path, block in blocks(model) for site in _sites_of(path, block)]
    if sites:
        return tuple(sites)
    seen = [
        f"{path} of {len(module)} {type(next(iter(module))).__name__}"
        for path, module in _lists(model)
    ]
    raise TypeError(
        f"compile: {type(model).__name__} has no list of blocks with children named like attn, ff "
        f"or mlp; lists of modules seen: {', '.join(seen[:8]) or 'none'}. Name the modules whose "
        'outputs may be kept: sites=["blocks.*.attention", ...]'
    )


def published_sites(blocks: Iterable[str], children: tuple[str, str]) -> tuple[Site, ...]:
    """The branches attn-0, mlp-0, attn-1, ... of a published program: `children` of the blocks."""
    return tuple(
        Site(f"{kind}-{i}", (f"{block}.{child}",))
        for i, block in enumerate(blocks)
        for kind, child in zip(("attn", "mlp"), children, strict=True)
    )


def blocks(model: nn.Module) -> tuple[tuple[str, nn.Module], ...]:
    """The blocks of a model with their paths, in the order in which they are registered.

    They are the elements of lists at the smallest depth at which there are any with branches, and
    what stands between such lists and is of the same class.
    """
    if type(model).__name__ in BLOCK_LISTS:
        paths = BLOCK_LISTS[type(model).__name__]
        return tuple(
            (f"{path}.{name}", block)
            for path in paths
            for name, block in model.get_submodule(path).named_children()
        )
    lists = [(path, module) for path, module in _lists(model) if any(map(_has_branch, module))]
    if not lists:
        return ()
    if {"down_blocks", "up_blocks"} <= set(model._modules):
        return tuple(_blocks_of_unet(lists))
    depth = min(path.count(".") for path, _ in lists)
    parents = {path.rpartition(".")[0] for path, _ in lists if path.count(".") == depth}
    found: list[tuple[str, nn.Module]] = []
    for parent in sorted(parents):
        found += _blocks_below(model, parent)
    return tuple(found)


def _blocks_of_unet(lists: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Module]]:
    """Those of a U-Net, whose lists are at several depths, in the order of the calls."""
    for part in ("down_blocks", "mid_block", "up_blocks"):
        for path, module in lists:
            if path.partition(".")[0] == part:
                yield from (
                    (f"{path}.{i}", b) for i, b in module.named_children() if _has_branch(b)
                )


def _blocks_below(model: nn.Module, parent: str) -> Iterator[tuple[str, nn.Module]]:
    children = list(model.get_submodule(parent).named_children())
    lists = [child for _, child in children if _is_list(child)]
    classes = {
        type(without_torch_compile(block))
        for blocks in lists
        for block in blocks.children()
        if _has_branch(block)
    }
    for name, child in children:
        path = f"{parent}.{name}" if parent else name
        if _is_list(child):
            yield from ((f"{path}.{i}", b) for i, b in child.named_children() if _has_branch(b))
        elif type(without_torch_compile(child)) in classes:
            yield path, child


def _sites_of(path: str, block: nn.Module) -> Iterator[Site]:
    block = without_torch_compile(block)
    names = [name for name, _ in block.named_children()]
    listed = BLOCK_BRANCHES.get(type(block).__name__)
    branches: list[tuple[str, ...]] = [pieces for pieces in IN_PIECES if set(pieces) <= set(names)]
    if listed is not None:
        names, branches = [], [(name,) for name in listed if _child(block, name) is not None]
    taken = {name for pieces in branches for name in pieces}
    branches += [(n,) for n in names if n not in taken and BRANCH_NAMES.fullmatch(n)]
    for children in branches:
        paths = tuple(f"{path}.{child}" for child in children)
        narrow = len(paths) > 1 and type(block).__name__ in NARROW_BLOCKS
        yield Site(paths[-1], paths, narrow=narrow)


def _child(block: nn.Module, path: str) -> nn.Module | None:
    """The module at a path below a block, or None."""
    module: nn.Module | None = block
    for name in path.split("."):
        module = None if module is None else module._modules.get(name)
    return module


def _has_branch(block: nn.Module) -> bool:
    return next(_sites_of("", block), None) is not None


def _lists(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList | nn.Sequential]]:
    for path, module in model.named_modules():
        if path and _is_list(module) and len(module):
            yield path, module


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential)
