"""EasyCache on tokens, lists of images and conditions behind latents, in whatever container."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import l2c_rt as rt
from l2c_rt.methods import EasyCache

STEPS, FIRST = 16, 2
TIMES = [1.0 - 0.05 * step for step in range(STEPS)]


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class Tokens(nn.Module):
    """Tokens [B, N, C], of which as many channels come out as are asked for; `text` has the shape
    of the tokens."""

    def __init__(self, channels: int, out: int, holder: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(channels, out)])
        self.holder = holder

    def forward(self, x: Any, t: Tensor, text: Tensor) -> Any:
        if isinstance(x, list):
            return ([self.blocks[0](image + 0 * text[0]) * t[0] for image in x],)
        v = self.blocks[0](x + 0 * text).tanh() * t[0]
        return {"dict": {"sample": v}, "tensor": v, "tuple": (v,)}[self.holder]


@dataclass(frozen=True)
class Layout:
    channels: int
    out: int
    holder: str
    is_list: bool = False

    def latents(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 5, self.channels, generator=generator)
        return [x[0], 3 * x[1]] if self.is_list else x


LAYOUTS = {
    "dict": Layout(4, 4, "dict"), "tuple": Layout(4, 4, "tuple"), "list": Layout(4, 4, "", True),
    "conditions": Layout(6, 4, "tensor"), "variances": Layout(4, 8, "dict"),
}  # fmt: skip


def flat(value: Any) -> Tensor:
    """All numbers of a value."""
    leaves = torch.utils._pytree.tree_leaves(value)
    return torch.cat([leaf.flatten() for leaf in leaves])


class Written:
    """The published rule in plain words, on lists of tensors; all that is compared and added has
    the channels that input and output share."""

    def __init__(self, threshold: float, shared: int, out: int) -> None:
        self.threshold, self.shared, self.out = threshold, shared, out
        self.sum = self.k = 0.0
        self.computed: list[bool] = []
        self.at: tuple[list[Tensor], list[Tensor]] | None = None
        self.before: list[Tensor] = []

    def __call__(self, x: list[Tensor], model: Any) -> list[Tensor]:
        near = [part[..., : self.shared] for part in x]
        step = len(self.computed)
        skips = False
        if FIRST <= step < STEPS - 1:
            assert self.at is not None
            size = flat([v[..., : self.shared] for v in self.at[1]]).abs().mean()
            change = (flat(near) - flat(self.before)).abs().mean()
            self.sum += float(self.k * change / size)
            skips = self.sum < self.threshold
        self.before = near
        self.computed.append(not skips)
        if skips:
            assert self.at is not None
            rows = zip(x, *self.at, strict=True)
            return [self._continued(part, kept_x, kept_v) for part, kept_x, kept_v in rows]
        self.sum = 0.0
        values = model()
        if self.at is not None:
            rise = flat([v[..., : self.shared] for v in values]) - flat(
                [v[..., : self.shared] for v in self.at[1]]
            )
            run = flat(near) - flat([part[..., : self.shared] for part in self.at[0]])
            self.k = float(rise.abs().mean() / run.abs().mean())
        self.at = x, values
        return values

    def _continued(self, part: Tensor, kept_x: Tensor, kept_v: Tensor) -> Tensor:
        value = kept_v.clone()
        value[..., : self.shared] += (part - kept_x)[..., : self.shared]
        return value


@pytest.mark.parametrize("name", LAYOUTS)
def test_easycache_is_its_formula_and_gives_the_models_own_container(name: str) -> None:
    layout = LAYOUTS[name]
    torch.manual_seed(0)
    model = Tokens(layout.channels, layout.out, layout.holder).eval()
    fast = rt.compile(model, EasyCache(0.4, FIRST), steps=STEPS, timesteps=TIMES)
    written = Written(0.4, min(layout.channels, layout.out), layout.out)
    x = layout.latents()
    text = torch.ones_like(x[0][None].expand(2, -1, -1) if layout.is_list else x)
    for step in range(STEPS):
        t = torch.full((2,), TIMES[step])
        parts = list(x) if layout.is_list else [x]
        expected = written(parts, lambda x=x, t=t: list(_leaves(model(x, t, text))))
        out = fast(x, t, text)
        own = model(x, t, text)
        assert type(out) is type(own)
        assert torch.utils._pytree.tree_structure(out) == torch.utils._pytree.tree_structure(own)
        for a, b in zip(_leaves(out), expected, strict=True):
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()
        parts = [0.97 * p + 0.02 * p.roll(1, -1) for p in parts]
        x = parts if layout.is_list else parts[0]
    assert fast.last_run.computed[:, 0].tolist() == written.computed
    assert FIRST < sum(written.computed) < STEPS


def _leaves(value: Any) -> list[Tensor]:
    leaves: list[Tensor] = torch.utils._pytree.tree_leaves(value)
    return leaves
