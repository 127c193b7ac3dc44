"""Where in a checkpoint the weights of a model lie: nested dicts, prefixes, averaged copies.

Training programs wrap a state dict in dicts ("state_dict", "ema") and its names in prefixes
("module.", "_orig_mod."). The weights are where the names of the model's own parameters are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from l2c_rt.untrusted.weights_pickle import Unread

Stored = TypeVar("Stored")

INFIXES = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What torch.compile, FSDP and activation checkpointing put into names, anywhere."""

KNOWN = {"", "diffusion_model", "model", "model_state_dict", "module", "net", "network", "params",
         "state_dict", "weights"}  # fmt: skip
"""Wrappers of the one model that was trained, in dicts and in names."""

EMA = re.compile(r"(^|[^a-z])ema([^a-z]|$)", re.IGNORECASE)
MAX_DEPTH = 8
MAX_PLACES = 64


def find_weights(saved: Any, stored: type[Stored], anchor: str, key: str) -> dict[str, Stored]:
    """The weights in `saved`, by the model's own names; `anchor` is one that they must have.

    `key` says where: keys of nested dicts or a prefix of names, joined by dots. Without it, an
    averaged copy ("ema") comes before the one that was trained, and anything else must be unique.
    Raises: ValueError with what there is, and the remedy.
    """
    _refuse_whole_module(saved, "the file")
    places = dict(islice(_places(saved, stored, anchor, (), set()), MAX_PLACES + 1))
    if len(places) > MAX_PLACES:
        raise ValueError(f"holds more than {MAX_PLACES} models")
    wanted = tuple(part for part in key.split(".") if part)
    under = {path: table for path, table in places.items() if path[: len(wanted)] == wanted}
    if not under:
        raise ValueError(_nothing(saved, stored, anchor, key, list(places)))
    return under[_best(list(under), wanted)]


def _places(
    saved: Any, stored: type[Stored], anchor: str, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], dict[str, Stored]]]:
    """(path, weights) for every dict and prefix under which the anchor stands."""
    # Dicts can be shared, and hold themselves: each is looked into once.
    if id(saved) in seen or len(path) > MAX_DEPTH:
        return
    seen.add(id(saved))
    tensors = _plain_names({k: v for k, v in saved.items() if isinstance(v, stored)})
    for name in tensors:
        if name == anchor or name.endswith(f".{anchor}"):
            prefix = name.removesuffix(anchor)
            below = {n[len(prefix) :]: v for n, v in tensors.items() if n.startswith(prefix)}
            yield (*path, *prefix.split(".")[:-1]), below
    for name, value in saved.items():
        if isinstance(value, Mapping):
            yield from _places(value, stored, anchor, (*path, *str(name).split(".")), seen)


def _plain_names(tensors: Mapping[Any, Stored]) -> dict[str, Stored]:
    plain = {
        ".".join(part for part in str(name).split(".") if part not in INFIXES): value
        for name, value in tensors.items()
    }
    if len(plain) != len(tensors):
        raise ValueError(f"two tensors have one name without {', '.join(sorted(INFIXES))}")
    return plain


def _best(paths: list[tuple[str, ...]], wanted: tuple[str, ...]) -> tuple[str, ...]:
    averaged = [path for path in paths if any(EMA.search(part) for part in path[len(wanted) :])]
    trained = [path for path in paths if KNOWN.issuperset(path[len(wanted) :])]
    for group in (averaged, trained, paths):
        if len(group) == 1:
            return group[0]
        if group:
            break
    several = first([repr(".".join(path)) for path in group], 8)
    raise ValueError(f"holds several models: {several}; say which by key=")


def _refuse_whole_module(saved: Any, where: str) -> None:
    if isinstance(saved, Unread):
        raise ValueError(
            f"{where} holds a whole pickled {saved.name:.80}, not its weights; where it can be "
            "loaded, save them: torch.save(model.state_dict(), path)"
        )
    if not isinstance(saved, Mapping):
        raise ValueError(f"{where} holds a {type(saved).__name__}, wanted a dict of weights")


def _nothing(
    saved: Mapping[Any, Any], stored: type[Stored], anchor: str, key: str,
    places: list[tuple[str, ...]],
) -> str:  # fmt: skip
    if key and places:
        there = first([repr(".".join(path)) for path in places], 8)
        return f"no weights under key={key!r:.80}; there are some under {there}"
    for name, value in saved.items():
        if isinstance(value, Unread) and name in KNOWN | {"ema"}:
            _refuse_whole_module(value, f"its {name!r}")
    names = [str(name) for name in saved]
    text = f"no {anchor}; the file has {first(names) or 'no tensors'}"
    if any(name.endswith((".attn1.to_q.weight", "pos_embed.proj.weight")) for name in names):
        return f"{text}; these are diffusers' names: load_diffusers(folder) takes its folders"
    if any(".base_layer." in name or ".lora_" in name for name in names):
        return f"{text}; these are peft's names: save the weights after merge_and_unload()"
    return f"{text}; wanted a state dict of that model, plain or in dicts"


def first(names: list[str], most: int = 3) -> str:
    """The first few of many names, for an error message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:80] for name in names[:most]) + more
