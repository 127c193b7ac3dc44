"""Where a model can be cut: the attention and MLP modules of its blocks, found by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

BRANCH_NAMES = re.compile(
    r"(self_|cross_|temp_)?attn\d?|(self_|cross_)?attention|ff|ff_context|ffn|(img_|txt_)?mlp"
    r"|mlp_context|feed_?forward"
)
"""Children of a block whose outputs are kept, before the block's own gate."""

PARALLEL = ("attn", "proj_mlp", "proj_out")
"""Attention and MLP side by side, through one linear: one branch (Flux's single blocks)."""


@dataclass(frozen=True, slots=True)
class Site:
    """One cut point: what a branch of the program is in the model.

    `children` are paths of modules in the order in which they are called.  The last one's output is
    kept; nothing but the last reads what the others give, so on reuse they give nothing.
    Of a block, what is kept is what it adds to its arguments.
    """

    name: str
    children: tuple[str, ...]
    is_block: bool = False


@dataclass(frozen=True, slots=True)
class FamilyException:
    """What the rule does not find out about a class: `lists` are its lists of blocks in the order
    of the calls, `inside` is the child of a block that holds the branches."""

    lists: tuple[str, ...] = ()
    inside: str = ""


EXCEPTIONS: Mapping[str, FamilyException] = MappingProxyType({})
"""By class name of the model."""


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
    lists = [(path, module) for path, module in _lists(model) if any(map(_has_branch, module))]
    if not lists:
        return ()
    depth = min(path.count(".") for path, _ in lists)
    parents = {path.rpartition(".")[0] for path, _ in lists if path.count(".") == depth}
    found: list[tuple[str, nn.Module]] = []
    for parent in sorted(parents):
        found += _blocks_below(model, parent)
    return tuple(found)


def _blocks_below(model: nn.Module, parent: str) -> Iterator[tuple[str, nn.Module]]:
    children = list(model.get_submodule(parent).named_children())
    lists = [child for _, child in children if _is_list(child)]
    classes = {type(block) for blocks in lists for block in blocks.children() if _has_branch(block)}
    for name, child in children:
        path = f"{parent}.{name}" if parent else name
        if _is_list(child):
            yield from ((f"{path}.{i}", b) for i, b in child.named_children() if _has_branch(b))
        elif type(child) in classes:
            yield path, child


def _sites_of(path: str, block: nn.Module) -> Iterator[Site]:
    names = [name for name, _ in block.named_children()]
    if {"proj_mlp", "proj_out"} <= set(names):
        children = tuple(f"{path}.{name}" for name in PARALLEL if name in names)
        yield Site(children[-1], children)
        return
    for name in names:
        if BRANCH_NAMES.fullmatch(name):
            yield Site(f"{path}.{name}", (f"{path}.{name}",))


def _has_branch(block: nn.Module) -> bool:
    return next(_sites_of("", block), None) is not None


def _lists(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList | nn.Sequential]]:
    for path, module in model.named_modules():
        if path and _is_list(module) and len(module):
            yield path, module


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential)
