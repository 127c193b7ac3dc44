"""Which lane is the unconditional one: seen by a fit, kept in files, told apart in every loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from served import STEPS, image, solo
from torch import Tensor, nn
from toys import count_branches, noise, random_schedule, timesteps, toy_dit

import l2c_rt as rt
from l2c_rt import adapters
from l2c_rt.adapters.bound_model import State
from l2c_rt.correctors import Goc, corrected
from l2c_rt.policies import EveryN
from l2c_rt.runtime.sample_lanes import uncond_first
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions

NULL = 10


def with_order(unconditional: int | None, *, uncond_first: bool = False) -> CacheSchedule:
    """Predictions whose lanes are cond and uncond, or in the other order."""
    plain = random_schedule(STEPS, count_branches(toy_dit()), seed=7)
    predictions = corrected(plain, Goc(0.5, None)).predictions
    assert predictions is not None
    cond = predictions.coefficients[0]
    lanes = np.stack([cond, -2.0 * cond][:: -1 if uncond_first else 1])
    lanes = replace(predictions, coefficients=lanes, unconditional=unconditional)
    return replace(plain, predictions=lanes)


COND_FIRST, UNCOND_FIRST = with_order(1), with_order(0, uncond_first=True)


def compiled(schedule: CacheSchedule, **options: Any) -> rt.Compiled:
    """For a loop of our own."""
    return rt.compile(toy_dit(), schedule, timesteps=timesteps(STEPS), **options)


def batches(f: Any, *, uncond_first: bool) -> list[Tensor]:
    """A loop of guided batches: the predictions for cond and for uncond."""
    x, labels = noise(5, 1), torch.tensor([NULL, 3] if uncond_first else [3, NULL])
    outputs = []
    for t in timesteps(STEPS):
        with torch.no_grad():
            out = f(torch.cat([x, x]), torch.full((2,), t), labels)
        cond, uncond = out.flip(0) if uncond_first else out
        outputs += [cond, uncond]
        x = 0.9 * x + 0.1 * (2 * cond - uncond)[None, : x.shape[1]]
    return outputs


def test_a_lane_is_found_in_a_batch_of_either_order_by_its_labels() -> None:
    expected = batches(compiled(COND_FIRST), uncond_first=False)
    for schedule in (COND_FIRST, UNCOND_FIRST):
        for first in (True, False):
            outputs = batches(compiled(schedule), uncond_first=first)
            torch.testing.assert_close(outputs, expected)
    # Where it is not known which lane is whose, they are in the order of the batch.
    unknown = compiled(with_order(None))
    torch.testing.assert_close(batches(unknown, uncond_first=False), expected)
    swapped = batches(unknown, uncond_first=True)
    assert max((a - b).abs().max() for a, b in zip(swapped, expected, strict=True)) > 1e-3


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([NULL, NULL, 3, 4], True), ([3, 4, NULL, NULL], False), ([NULL, NULL, NULL, 3], None),
     ([3, 4, 5, 6], None), ([[NULL, NULL], [NULL, NULL], [3, 3], [4, 4]], None)],
)  # fmt: skip
def test_labels_tell_the_order_where_one_half_alone_has_none(
    labels: Any, expected: bool | None
) -> None:
    state = State(torch.zeros(4, 1), torch.zeros(4), torch.tensor(labels), {})
    assert uncond_first(state, adapters.bind(toy_dit()).sampling) is expected


def test_two_calls_and_batches_without_guidance_take_the_lane_of_the_condition() -> None:
    x, labels = noise(5, 1), torch.tensor([3])

    def calls(fast: rt.Compiled, lanes: int) -> list[Tensor]:
        outputs = []
        for t in timesteps(STEPS):
            for lane in range(lanes):
                outputs.append(fast(x * t, torch.full((1,), t), labels + lane))
        return outputs

    for count in (1, 2):
        first, other = (
            calls(compiled(schedule, calls_per_step=count), count)
            for schedule in (COND_FIRST, UNCOND_FIRST)
        )
        torch.testing.assert_close(first, other)


def test_requests_take_the_coefficients_of_their_lanes_whatever_their_order() -> None:
    for schedule in (COND_FIRST, UNCOND_FIRST):
        first, fast = rt.compile(toy_dit(), COND_FIRST), rt.compile(toy_dit(), schedule)
        with rt.Engine(fast) as engine:
            for scale in (2.0, 1.0):
                out = engine.submit(image(3), 3, cfg_scale=scale).result(60)
                torch.testing.assert_close(out, solo(first, 3, 3, cfg_scale=scale))


def test_an_engine_refuses_lanes_of_which_nobody_knows_whose_they_are() -> None:
    with pytest.raises(ValueError, match=r"do not say which are whose .*uncond_first="):
        rt.Engine(rt.compile(toy_dit(), with_order(None)))


OPTIONS: dict[str, Any] = {"steps": STEPS, "runs": 2, "progress": False, "lanes": True}


def uncond_first_loop(model: nn.Module, seed: int) -> Tensor:
    return torch.stack(batches(model, uncond_first=True)[-2:])


def one_null_loop(model: nn.Module, seed: int) -> Tensor:
    """Guided batches whose labels say nothing: both halves have a class."""

    def call(x: Tensor, t: Tensor, labels: Tensor) -> Any:
        return model(x, t, labels.clamp(max=NULL - 1))

    return torch.stack(batches(call, uncond_first=True)[-2:])


def chosen_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first fit is taken, which has lanes, whichever ends nearest."""
    import l2c_rt.regression.fit_corrector as module

    judged = module.judged

    def first_of(calibration: Any, candidates: Any, *rest: Any) -> CacheSchedule:
        judged(calibration, candidates[:1], *rest)
        return candidates[0]

    monkeypatch.setattr(module, "judged", first_of)


@pytest.mark.parametrize(
    ("loop", "told", "lane"),
    [
        (None, None, 1),
        (uncond_first_loop, None, 0),
        (one_null_loop, None, None),
        (one_null_loop, True, 0),
        (one_null_loop, False, 1),
    ],
)
def test_a_fit_says_which_lane_is_the_unconditional_one(
    loop: Any, told: bool | None, lane: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen_first(monkeypatch)
    options = OPTIONS | ({"batch_size": 1} if loop is None else {})
    fit = rt.fit_corrector(toy_dit(), EveryN(4), loop, uncond_first=told, **options).fit
    assert fit.predictions is not None
    assert (fit.predictions.lanes, fit.predictions.unconditional) == (2, lane)


def test_an_order_that_a_loop_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match="uncond_first is True, and the published loop"):
        rt.fit_corrector(toy_dit(), EveryN(2), uncond_first=True, **OPTIONS)
    with pytest.raises(ValueError, match="uncond_first is 'no', wanted True, False or None"):
        rt.fit_corrector(toy_dit(), EveryN(2), uncond_first="no", **OPTIONS)  # type: ignore[arg-type]


@pytest.mark.parametrize("unconditional", [0, 1, None])
def test_every_file_keeps_it(unconditional: int | None, tmp_path: Path) -> None:
    schedule = with_order(unconditional)
    schedule.save(tmp_path / "schedule.json")
    fit = rt.correctors.Fitted(schedule)
    fit.save(tmp_path / "fit.safetensors")
    logits = np.where(schedule.compute, 1.0, -1.0)
    router = rt.Router(logits, family="dit", steps=STEPS, fitted=schedule.predictions)
    router.save(tmp_path / "router.safetensors")
    loaded = [
        CacheSchedule.load(tmp_path / "schedule.json").predictions,
        rt.correctors.Fitted.load(tmp_path / "fit.safetensors").fit.predictions,
        rt.Router.load(tmp_path / "router.safetensors").fitted,
    ]
    assert all(predictions == schedule.predictions for predictions in loaded)
    assert [predictions.unconditional for predictions in loaded if predictions] == (
        [unconditional] * 3
    )


@pytest.mark.parametrize("lane", [b"7", b"x"])
def test_a_lane_that_a_file_does_not_have_is_refused(lane: bytes, tmp_path: Path) -> None:
    path, old = tmp_path / "fit.safetensors", b'"unconditional":"1"'
    rt.correctors.Fitted(COND_FIRST).save(path)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, old.replace(b"1", lane)))
    with pytest.raises(ValueError, match=r"fit\.safetensors: .*unconditional"):
        rt.correctors.Fitted.load(path)
    with pytest.raises(ValueError, match="unconditional is 2, wanted one of the 2 lanes"):
        Predictions(np.zeros((1, 1, 0), np.int16), np.zeros((2, 1, 1, 0)), unconditional=2)
