"""Whole blocks as sites: what is kept is what a block adds to the tensors that go through it."""

from __future__ import annotations

from torch import nn

from l2c_rt.adapters.own.sites import Site, blocks

GRANULARITIES = ("branch", "block", "model")

WHOLE_MODEL = Site("model", ("",), is_block=True)
"""The model itself as the one site: what is kept is output - input."""


def block_sites(model: nn.Module) -> tuple[Site, ...]:
    """The blocks of a model, in the order of their calls.

    They are those with attention or MLP children, else the elements of the lists of the root whose
    class the model names as one that is not to be split, or as one that is repeated.
    Raises TypeError naming the lists of the root, where there are none.
    """
    sites = tuple(Site(path, (path,), is_block=True) for path, _ in blocks(model))
    return sites or tuple(_named_by_the_model(model)) or _refuse(model)


def _named_by_the_model(model: nn.Module) -> list[Site]:
    names = {
        name
        for attribute in ("_repeated_blocks", "_no_split_modules")
        for name in getattr(model, attribute, None) or ()
    }
    return [
        Site(f"{path}.{name}", (f"{path}.{name}",), is_block=True)
        for path, children in model.named_children()
        if isinstance(children, nn.ModuleList | nn.Sequential)
        for name, child in children.named_children()
        if type(child).__name__ in names
    ]


def _refuse(model: nn.Module) -> tuple[Site, ...]:
    lists = [
        f"{path} of {len(children)} {type(next(iter(children))).__name__}"
        for path, children in model.named_children()
        if isinstance(children, nn.ModuleList | nn.Sequential) and len(children)
    ]
    raise TypeError(
        f'compile: granularity="block": {type(model).__name__} has no list of blocks that is known '
        f"as one; lists of modules: {', '.join(lists[:8]) or 'none'}. Name the blocks: "
        'sites=["layers.*"]'
    )
