"""A cached forward by plain hooks on a copy of the model: what the own route must equal bitwise."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

from l2c_rt.schedule.cache_schedule import CacheSchedule


class Oracle:
    """Calls a copy of the model, or the model itself, whose modules at `paths` {branch: path} give,
    where the row of the evaluation says so, what they gave when they were last computed.
    Everything is computed."""

    def __init__(
        self,
        model: nn.Module,
        schedule: CacheSchedule,
        paths: Mapping[str, str],
        *,
        copied: bool = True,
    ) -> None:
        self._model = copy.deepcopy(model) if copied else model
        self._schedule, self._step = schedule, 0
        self._calls: Counter[str] = Counter()
        self._outputs: dict[tuple[str, int], Any] = {}
        self._handles: list[RemovableHandle] = []
        for k, name in enumerate(schedule.branches):
            module = self._model.get_submodule(paths[name])
            self._handles.append(module.register_forward_hook(self._hook(k, name)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._calls.clear()
        out = self._model(*args, **kwargs)
        self._step += 1
        return out

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, k: int, name: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> Any:
            key = (name, self._calls[name])
            self._calls[name] += 1
            if self._schedule.row(self._step)[k]:
                self._outputs[key] = tree_map(_clone, out)
                return None
            return self._outputs[key]

        return hook


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
