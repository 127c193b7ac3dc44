"""A U-ViT's evaluations as differences to earlier ones, by formula.  Shares no code with the
package: which evaluation is another's base is given."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn


class DeltaOracle:
    """Reuses branch outputs where `compute` [S, K] is False; evaluation s of `base_of` is counted
    as its difference to `base_of[s]`, branch by branch and long skip by long skip."""

    def __init__(self, model: nn.Module, compute: np.ndarray, base_of: Mapping[int, int]) -> None:
        self._model, self._compute, self._base_of = model, compute, base_of
        self._calls = 0
        self._outputs: dict[int, Tensor] = {}
        self._streams: dict[int, list[Tensor]] = {}

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        s, self._calls = self._calls, self._calls + 1
        self._row = self._compute[s]
        x = self._model.embed(x, t, y)
        if s in self._base_of:
            streams = self._streams[self._base_of[s]]
            return self._model.decode(streams[-1] + self._delta(x - streams[0], iter(streams)))
        self._streams[s] = [x]
        return self._model.decode(self._stream(x, self._streams[s]))

    def _branches(self) -> list[tuple[nn.Module | None, nn.Module, nn.Module, bool]]:
        """Of each branch: the long skip before it, its norm, itself, whether a skip is kept."""
        m, found = self._model, []
        for b, block in enumerate([*m.in_blocks, m.mid_block, *m.out_blocks]):
            found.append((block.skip_linear, block.norm1, block.attn, False))
            found.append((None, block.norm2, block.mlp, b < len(m.in_blocks)))
        return found

    def _stream(self, x: Tensor, streams: list[Tensor]) -> Tensor:
        """The ordinary evaluation; the stream after every addition and long skip is noted."""
        skips: list[Tensor] = []
        for k, (linear, norm, branch, keeps) in enumerate(self._branches()):
            if linear is not None:
                x = F.linear(x, *_first(linear)) + F.linear(skips.pop(), _second(linear))
                streams.append(x)
            if self._row[k]:
                self._outputs[k] = branch(norm(x))
            x = x + self._outputs[k]
            streams.append(x)
            if keeps:
                skips.append(x)
        return x

    def _delta(self, d: Tensor, streams: object) -> Tensor:
        """The difference at the end; `streams` are the base's, from the embedding on."""
        assert hasattr(streams, "__next__")
        before, skips = next(streams), []
        for k, (linear, norm, branch, keeps) in enumerate(self._branches()):
            if linear is not None:
                d = F.linear(d, _first(linear)[0]) + F.linear(skips.pop(), _second(linear))
                before = next(streams)
            after = next(streams)
            if self._row[k]:
                self._outputs[k] = branch(norm(before + d))
                d = before + d + self._outputs[k] - after
            before = after
            if keeps:
                skips.append(d)
        return d


def _first(linear: nn.Module) -> tuple[Tensor, Tensor]:
    return linear.weight[:, : linear.weight.shape[0]], linear.bias


def _second(linear: nn.Module) -> Tensor:
    return linear.weight[:, linear.weight.shape[0] :]
