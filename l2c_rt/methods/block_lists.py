"""The lists of blocks that cache-dit decides about one by one, by class of model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

Lists = tuple[tuple[str, ...], ...]
"""The names of lists of blocks; those of one entry are decided about as one."""

_TWO: Lists = (("transformer_blocks",), ("single_transformer_blocks",))

PUBLISHED: Mapping[str, Lists] = MappingProxyType({
    "AuraFlowTransformer2DModel": (("single_transformer_blocks",),),
    "BriaFiboTransformer2DModel": _TWO,
    "BriaTransformer2DModel": _TWO,
    "ChromaTransformer2DModel": _TWO,
    "Flux2Transformer2DModel": _TWO,
    "HiDreamImageTransformer2DModel": (("double_stream_blocks",), ("single_stream_blocks",)),
    "HunyuanImageTransformer2DModel": _TWO,
    "HunyuanVideoTransformer3DModel": _TWO,
    "Kandinsky5Transformer3DModel": (("visual_transformer_blocks",),),
    "LongCatImageTransformer2DModel": _TWO,
    "Lumina2Transformer2DModel": (("layers",),),
    "OvisImageTransformer2DModel": _TWO,
    "WanVACETransformer3DModel": (("blocks",),),
    "ZImageTransformer2DModel": (("layers",),),
})  # fmt: skip
"""As cache-dit 1.5.3 registers them; of other classes all blocks are decided about as one."""


SUCH_AS = 'such as ("transformer_blocks", "single_transformer_blocks")'


def list_of(path: str) -> str:
    """The name of the list that a block is in."""
    return path.rpartition(".")[0]


def lists_for(kind: str, blocks: Sequence[str], *, apart: bool) -> Lists:
    """Those of a class of models; with `apart`, where none are published, every list by itself."""
    names = tuple(dict.fromkeys(map(list_of, blocks)))
    if kind in PUBLISHED:
        return PUBLISHED[kind]
    return tuple((name,) for name in names) if apart else (names,)


def checked_lists(where: str, lists: object) -> Lists:
    """The lists as tuples.  Raises ValueError where there are none, or one is named twice, and
    TypeError for anything but names and sequences of them."""
    entries = lists if isinstance(lists, Sequence) and not isinstance(lists, str) else (lists,)
    named = tuple(
        tuple(e) if isinstance(e, Sequence) and not isinstance(e, str) else (e,) for e in entries
    )
    names = [name for entry in named for name in entry]
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"{where} is {lists!r}, wanted names of lists of blocks, {SUCH_AS}")
    if not names or not all(named) or len(set(names)) != len(names):
        raise ValueError(
            f"{where} is {lists!r}, wanted names of lists of blocks, each once, {SUCH_AS}"
        )
    return named


def checked_modifiers(where: str, modifiers: object) -> Mapping[str, Mapping[str, object]]:
    """The fields that are others, by lists.  Raises TypeError for anything but mappings."""
    if modifiers is None:
        return {}
    if isinstance(modifiers, Mapping) and all(isinstance(f, Mapping) for f in modifiers.values()):
        return modifiers
    raise TypeError(
        f"{where} is {modifiers!r}, wanted fields by the names of lists, such as "
        '{"single_transformer_blocks": {"Fn_compute_blocks": 1}}'
    )


def blocks_by_list(where: str, lists: Lists, branches: Sequence[str]) -> list[tuple[str, ...]]:
    """The blocks of every entry.  Raises ValueError for a list that the model does not have."""
    known = dict.fromkeys(map(list_of, branches))
    for name in (name for entry in lists for name in entry):
        if name not in known:
            raise ValueError(f"{where}: the model has no list {name!r}, but {', '.join(known)}")
    return [tuple(b for b in branches if list_of(b) in entry) for entry in lists]
