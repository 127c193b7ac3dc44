"""The sites that a user names, by patterns of module paths."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from l2c_rt.adapters.own.sites import Site


def named_sites(model: nn.Module, patterns: Sequence[str | tuple[str, ...]]) -> tuple[Site, ...]:
    """A site for every module that a pattern names, in the order of the model's modules.

    `*` stands for one name between dots, or for a part of one: "blocks.*.attn".  A tuple of paths,
    in the order of their calls, is one site: what its last module gives is kept, and nothing else
    reads what the others give.
    Raises TypeError for anything but a list of strings, ValueError for a pattern that names no
    module or a list of modules, and where one site lies inside another.
    """
    if isinstance(patterns, str) or not isinstance(patterns, Sequence):
        raise TypeError(f'sites: wanted a list like ["blocks.*.attn"], got {patterns!r:.80}')
    if any(isinstance(p, tuple) for p in patterns):
        pieces = [(p,) if isinstance(p, str) else p for p in patterns]
        return tuple(Site(site[-1], site, required=True) for site in pieces)
    texts = [pattern for pattern in patterns if isinstance(pattern, str)]
    if len(texts) != len(patterns):
        raise TypeError(f'sites: wanted a list like ["blocks.*.attn"], got {patterns!r:.80}')
    if not patterns:
        raise ValueError("sites: wanted at least one pattern, got none; leave sites= out for the "
                         "rule")  # fmt: skip
    modules = {path: module for path, module in model.named_modules() if path}
    paths: dict[str, None] = {}
    for pattern in texts:
        named = [path for path in modules if _names(pattern, path)]
        if not named:
            raise ValueError(f"sites: {pattern!r} names no module; {_near(pattern, modules)}")
        for path in named:
            if isinstance(modules[path], nn.ModuleList | nn.ModuleDict):
                kind = type(modules[path]).__name__
                raise ValueError(f"sites: {path!r} is a {kind}, which is never called; name its "
                                 f"elements: {path}.*")  # fmt: skip
        paths |= dict.fromkeys(named)
    _refuse_nested(paths)
    return tuple(Site(path, (path,), required=True) for path in modules if path in paths)


def _names(pattern: str, path: str) -> bool:
    wanted, names = pattern.split("."), path.split(".")
    return len(wanted) == len(names) and all(map(fnmatchcase, names, wanted))


def _near(pattern: str, modules: dict[str, nn.Module]) -> str:
    """What there is where the pattern stops to name anything."""
    parts = pattern.split(".")
    for length in range(len(parts) - 1, -1, -1):
        head = ".".join(parts[:length])
        parents = [path for path in modules if _names(head, path)] if length else [""]
        if parents:
            parent = parents[0]
            prefix = f"{parent}." if parent else ""
            children = [p for p in modules if p.startswith(prefix) and "." not in p[len(prefix) :]]
            listed = ", ".join(children[:8]) or "nothing"
            return f"below {parent or 'the model'!r} are {listed}"
    return "the model has no modules"


def _refuse_nested(paths: dict[str, None]) -> None:
    for path in paths:
        parts = path.split(".")
        for i in range(1, len(parts)):
            above = ".".join(parts[:i])
            if above in paths:
                raise ValueError(
                    f"sites: {path!r} lies inside {above!r}; name one or the other, not both"
                )
