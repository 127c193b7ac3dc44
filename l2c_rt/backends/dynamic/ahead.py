"""What a forward has done up to the observation, so that the rest need not do it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.own.observe import write_count
from l2c_rt.adapters.own.sites import Site
from l2c_rt.plan.decisions import Look


class Ahead:
    """What modules at these paths gave, in the order of their calls: the same tensors at every
    replay of what is captured."""

    def __init__(self, paths: Collection[str]) -> None:
        self._paths = frozenset(paths)
        self._given: dict[str, list[Any]] = {}
        self._writes: list[tuple[str, Tensor, int]] = []
        self._calls: Counter[str] = Counter()

    def clear(self) -> None:
        """Forget everything."""
        self._given.clear()
        self._writes.clear()

    def note(self, path: str, out: object) -> None:
        """A module has given this."""
        if path in self._paths:
            self._given.setdefault(path, []).append(out)
            tensors = (leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
            self._writes += [(path, tensor, write_count(tensor)) for tensor in tensors]

    def begin(self) -> None:
        """A forward begins that takes what there is."""
        self._calls.clear()

    def instead(self, path: str, module: nn.Module) -> nn.Module:
        """What is called in place of a module: itself, or something that gives what it gave."""
        given, number = self._given.get(path, ()), self._calls[path]
        if number >= len(given):
            return module
        self._calls[path] += 1
        return _Given(given[number])

    def written(self) -> str:
        """The module whose output was written to since; "" where none was."""
        return next((path for path, t, count in self._writes if write_count(t) != count), "")

    def addresses(self) -> set[int]:
        """Those of the outputs' memory."""
        return {tensor.untyped_storage().data_ptr() for _, tensor, _ in self._writes}


class _Given(nn.Module):
    """Gives this, whatever it is given."""

    def __init__(self, out: object) -> None:
        super().__init__()
        self._out = (out,)

    def forward(self, *args: object, **kwargs: object) -> object:
        return self._out[0]


def ahead_paths(model: nn.Module, sites: Iterable[Site], look: Look) -> tuple[str, ...]:
    """The modules of a model whose calls before the observation need not be repeated after it: the
    largest that hold neither a site nor what is observed, and the sites themselves."""
    if not look.is_inside:
        return ()
    cut = {path for site in sites for path in site.children}
    return tuple(_largest(model, "", cut, {*cut, look.path}))


def _largest(module: nn.Module, path: str, sites: set[str], apart: set[str]) -> Iterator[str]:
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        is_list = isinstance(child, nn.ModuleList | nn.ModuleDict)
        if below in sites or not (is_list or any(p.startswith(f"{below}.") for p in apart)):
            yield below
        else:
            yield from _largest(child, below, sites, apart)
