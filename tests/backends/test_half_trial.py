"""Half of a batch is only left out where a model gives for it what it gives in the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from family_results import FAMILIES
from torch import Tensor, nn

import l2c_rt as rt
from l2c_rt.adapters.own.describe import describe_own, open_stage
from l2c_rt.backends.half_trial import HalfTrial
from l2c_rt.methods import FasterCacheScript, GuidanceInterval
from l2c_rt.schedule.halves import HALVED

STEPS, WIDTH, FRAMES = 24, 8, 3
TIMES = [float(t) for t in range(900, 900 - STEPS, -1)]
Fold = Callable[[Tensor], Tensor]
"""What a model does to tokens [B, F, N, D] before its attention, and takes back after it."""


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.to_out(torch.softmax(x @ x.transpose(-1, -2) / 9, -1) @ x)
        return mixed


class Block(nn.Module):
    def __init__(self, fold: Fold, unfold: Fold) -> None:
        super().__init__()
        self.attn, self.fold, self.unfold = Attention(), fold, unfold

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return x + self.unfold(self.attn(self.fold(x + text[:, None, None])))


class Video(nn.Module):
    """Frames [B, F, N, D], in blocks that fold them into the batch."""

    def __init__(self, fold: Fold, unfold: Fold) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(fold, unfold) for _ in range(2))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)

    def forward(self, hidden_states: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        x = hidden_states * timestep[:, None, None, None].cos()
        for block in self.blocks:
            x = block(x, prompt)
        return x


def by_image() -> Video:
    return Video(lambda x: x.flatten(0, 1), lambda x: x.unflatten(0, (-1, FRAMES)))


def by_frame() -> Video:
    return Video(
        lambda x: x.transpose(0, 1).flatten(0, 1),
        lambda x: x.unflatten(0, (FRAMES, -1)).transpose(0, 1),
    )


def packed() -> Video:
    """One sequence of all images, as of tokens without a batch."""
    rows = [0]

    def fold(x: Tensor) -> Tensor:
        rows[0] = len(x)
        return x.flatten(0, 2)[None]

    return Video(fold, lambda x: x.reshape(rows[0], FRAMES, -1, WIDTH))


def call(of: Any, t: float, **others: Any) -> Tensor:
    torch.manual_seed(3)
    x, prompt = torch.randn(1, FRAMES, 4, WIDTH).repeat(2, 1, 1, 1), torch.randn(2, WIDTH)
    out: Tensor = of(hidden_states=x, timestep=torch.full((2,), t), prompt=prompt, **others)
    return out


def compiled(model: nn.Module, method: Any = None) -> Any:
    method = method or FasterCacheScript(halved_arguments=(*HALVED, "prompt"))
    return rt.compile(model, method, steps=STEPS, timesteps=TIMES)


def test_frames_that_are_folded_into_the_batch_image_by_image_are_halved() -> None:
    model = by_image()
    fast = compiled(model)
    outputs = [call(fast, t) for t in TIMES]
    # At evaluation 17 the second, unconditional half is recovered, at 18 attention extrapolated.
    torch.testing.assert_close(outputs[17][:1], call(model, TIMES[17])[:1])
    torch.testing.assert_close(outputs[18][:1], extrapolated(model, TIMES[16:19])[:1])
    assert (outputs[18] - call(model, TIMES[18])).norm() > 1e-3
    slots = fast.run.lanes.all()[0].slots.values
    lengths = {len(t) for kept in slots._kept.values() for t in kept.tensors}
    assert lengths == {FRAMES, 1}  # of attention, and of the spectrum


def extrapolated(model: Video, times: list[float]) -> Tensor:
    """The last call with attention 1.3 times that of the one before, less 0.3 of the first."""
    given: list[list[Tensor]] = []
    for t in times[:-1]:
        given.append([])
        hooks = [
            block.attn.register_forward_hook(lambda m, i, out: given[-1].append(out))
            for block in model.blocks
        ]
        call(model, t)
        for hook in hooks:
            hook.remove()
    mixes = iter([1.3 * new - 0.3 * old for old, new in zip(*given, strict=True)])
    hooks = [
        block.attn.register_forward_hook(lambda m, i, out: next(mixes)) for block in model.blocks
    ]
    out = call(model, times[-1])
    for hook in hooks:
        hook.remove()
    return out


def test_frames_whose_images_alternate_are_refused_before_anything_is_given() -> None:
    with pytest.raises(ValueError, match="output of blocks.0.attn .* for each image"):
        call(compiled(by_frame()), TIMES[0])


def test_images_that_see_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="output of blocks.0.attn .* depends on the other half"):
        call(compiled(packed()), TIMES[0])
    interval = GuidanceInterval((880, 891), halved_arguments=(*HALVED, "prompt"))
    with pytest.raises(ValueError, match="gives another result for the conditional half .* alone"):
        call(compiled(packed(), interval), TIMES[0])


def test_an_argument_that_stays_whole_is_seen_though_it_broadcasts() -> None:
    with pytest.raises(ValueError, match="blocks.0.attn .* not half of .*halved_arguments="):
        call(compiled(by_image(), FasterCacheScript()), TIMES[0])


def test_a_forward_that_stops_at_half_a_batch_is_told_in_its_own_words() -> None:
    model = by_image()
    model.blocks[0].unfold = lambda x: x.view(2, FRAMES, 4, WIDTH)
    with pytest.raises(ValueError, match="does not take the conditional half .*: shape .* invalid"):
        call(compiled(model), TIMES[0])


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attn(self.attn(x) - 1)
        return out


def test_every_call_of_a_module_is_compared_with_the_same_call_of_the_half() -> None:
    model, x, outputs = Twice(), torch.randn(2, 4, WIDTH), list[Tensor]()
    hook = model.attn.register_forward_hook(lambda m, i, out: outputs.append(out[:1]))
    model(x)
    hook.remove()
    trial = HalfTrial(partial(open_stage, model, ["attn"]), ["attn"], (x[:1],), {})
    for number, out in enumerate(outputs):
        trial.check_site("attn", number, out)
        for other, wrong in ((1 - number, out), (2, out), (number, out.roll(1, -1))):
            with pytest.raises(ValueError, match="output of attn"):
                trial.check_site("attn", other, wrong)


def test_each_kind_of_call_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = by_image(), []
    monkeypatch.setattr(Attention, "forward", _counting(Attention.forward, rows))
    fast = compiled(model)
    for _ in range(2):
        for t in TIMES[:2]:
            call(fast, t)
        fast.reset()
    # Half of the first evaluation, then whole ones: two blocks each.
    real = [n for n, is_meta in rows if not is_meta]
    assert real == [FRAMES] * 2 + [2 * FRAMES] * 8


def _counting(forward: Any, rows: list[tuple[int, bool]]) -> Any:
    def counted(self: nn.Module, x: Tensor) -> Tensor:
        rows.append((len(x), x.is_meta))
        out: Tensor = forward(self, x)
        return out

    return counted


@pytest.mark.parametrize("family", ["Latte", "TransformerTemporal"])
def test_families_that_fold_frames_are_extrapolated_as_by_hooks(family: str) -> None:
    """Attention of the conditional half is given at the first halved evaluation what a plain
    forward of that half gives."""
    found = FAMILIES[family]
    model = found.build()
    first = found.at(0)
    rows = len(describe_own(model).begin(**first).x)
    names = tuple(k for k, v in first.items() if isinstance(v, Tensor) and len(v) == rows)
    times = [float(describe_own(model).begin(**found.at(n)).t.reshape(-1)[0]) for n in range(STEPS)]
    method = FasterCacheScript(halved_arguments=names)
    fast = rt.compile(model, method, steps=STEPS, timesteps=times)
    for n in range(18):
        one = found.at(n)
        out = fast(**{k: torch.cat([v, v]) if k in names else v for k, v in one.items()})
    sample, expected = (o if isinstance(o, Tensor) else o[0] for o in (out, model(**one)))
    torch.testing.assert_close(sample[: len(expected)], expected, rtol=1e-4, atol=1e-5)
