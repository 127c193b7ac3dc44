"""U-Nets as shells, against DeepCache written out layer by layer: bitwise at every depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from unets import DeepCacheOracle, draw, inputs, rows, sd_like, sdxl_like, shared

import l2c_rt as rt
from l2c_rt.policies import DeepCache, EveryN

SKIPS = 9
STEPS = 4
pytestmark = pytest.mark.usefixtures("shared_probes")
MIXED = (None, 1, 4, None, 0, 4, 1, 8, None, 2)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def timesteps(count: int = STEPS) -> list[float]:
    return [float(inputs(step)[1]) for step in range(count)]


def run(fast: Any, count: int = STEPS, **extra: Any) -> list[Tensor]:
    out = []
    for step in range(count):
        x, t, text = inputs(step)
        out.append(fast(x, t, encoder_hidden_states=text, return_dict=False, **extra)[0])
    return out


def by_hand(unet: Any, depths: Sequence[int | None], *extra: Any) -> list[Tensor]:
    oracle = DeepCacheOracle(unet)
    return [oracle(depth, *inputs(step), *extra) for step, depth in enumerate(depths)]


def equal(a: list[Tensor], b: list[Tensor]) -> list[bool]:
    return [torch.equal(x, y) for x, y in zip(a, b, strict=True)]


def test_the_branches_are_shells_of_a_down_layer_and_the_up_layer_that_reads_it() -> None:
    fast = rt.compile(shared(sd_like), DeepCache(), timesteps=timesteps())
    sites = {site.name: site.children for site in fast.bound_model.sites}
    assert tuple(sites) == (*(f"shell-{q}" for q in range(SKIPS)), "mid") == fast.schedule.branches
    assert sites["shell-2"] == (
        "down_blocks.0.resnets.1", "down_blocks.0.attentions.1",
        "up_blocks.2.resnets.0", "up_blocks.2.attentions.0",
    )  # fmt: skip
    # With the outermost shell of a block goes the block itself.
    assert sites["shell-3"] == (
        "down_blocks.0.downsamplers.0", "up_blocks.1.resnets.2", "up_blocks.1.attentions.2",
        "up_blocks.1.upsamplers.0", "up_blocks.1",
    )  # fmt: skip
    assert sites["mid"] == ("mid_block",)


def test_computing_everything_is_bitwise_the_model() -> None:
    unet = shared(sd_like)
    fast = rt.compile(unet, DeepCache(), timesteps=timesteps())
    assert all(equal(run(fast), run(unet)))
    assert fast.plan.num_slots == 0


@pytest.mark.parametrize("branch", range(SKIPS))
def test_every_depth_is_bitwise_the_arithmetic_written_out_and_keeps_one_tensor(
    branch: int,
) -> None:
    unet = shared(sd_like)
    fast = rt.compile(unet, DeepCache(3, branch), timesteps=timesteps())
    depths = [None if step % 3 == 0 else branch for step in range(STEPS)]
    expected = by_hand(unet, depths)
    first = run(fast)
    fast.poison()
    assert all(equal(first, expected))
    assert all(equal(run(fast), expected))
    assert equal(first, run(unet)) == [step % 3 == 0 for step in range(STEPS)]
    kept = DeepCacheOracle(unet)
    kept(None, *inputs(0))
    assert fast.plan.num_slots == 1
    assert fast.summary().slot_bytes == kept.store[branch + 1].numel() * 4


def test_rows_of_several_depths_are_bitwise_and_keep_one_tensor_per_depth() -> None:
    unet = shared(sd_like)
    fast = rt.compile(unet, rows(MIXED, SKIPS), timesteps=timesteps(len(MIXED)))
    assert all(equal(run(fast, len(MIXED)), by_hand(unet, MIXED)))
    assert fast.plan.num_slots == len({*MIXED} - {None})


def test_a_row_that_reuses_every_shell_runs_the_ends_on_the_last_tensor() -> None:
    unet = shared(sd_like)
    depths = [None, -1, 3, -1]
    fast = rt.compile(unet, rows(depths, SKIPS), timesteps=timesteps(4))
    assert all(equal(run(fast, 4), by_hand_with_ends(unet, depths)))


def by_hand_with_ends(unet: Any, depths: Sequence[int | None]) -> list[Tensor]:
    oracle, out = DeepCacheOracle(unet), []
    for step, depth in enumerate(depths):
        if depth == -1:
            last = oracle.store[0]
            out.append(unet.conv_out(unet.conv_act(unet.conv_norm_out(last))))
        else:
            out.append(oracle(depth, *inputs(step)))
    return out


def test_only_the_layers_of_the_computed_shells_run() -> None:
    unet = sd_like()
    ran: list[str] = []
    for path, module in unet.named_modules():
        if path.split(".")[-2:-1] in (["resnets"], ["down_blocks"], ["up_blocks"]):
            module.register_forward_hook(lambda *_, path=path: ran.append(path))
    fast = rt.compile(unet, DeepCache(2, 1), timesteps=timesteps(2))
    run(fast, 1)
    ran.clear()
    x, t, text = inputs(1)
    fast(x, t, text)
    # One layer down and two up, inside of the outermost blocks; hooks of the user's modules see it.
    assert ran == ["down_blocks.0.resnets.0", "down_blocks.0", "up_blocks.2.resnets.1",
                   "up_blocks.2.resnets.2", "up_blocks.2"]  # fmt: skip


def test_the_model_is_left_as_it_is() -> None:
    unet = shared(sd_like)
    before = {path: (id(m), sorted(vars(m))) for path, m in unet.named_modules()}
    keys = list(unet.state_dict())
    run(rt.compile(unet, DeepCache(3, 2), timesteps=timesteps()))
    assert {path: (id(m), sorted(vars(m))) for path, m in unet.named_modules()} == before
    assert list(unet.state_dict()) == keys


def test_an_sdxl_like_model_is_full_bitwise_and_cached_like_its_arithmetic() -> None:
    unet = shared(sdxl_like)
    conditions = {"text_embeds": draw(8, 2, 32), "time_ids": draw(7, 2, 6)}
    extra = {"added_cond_kwargs": conditions}
    full = run(unet, **extra)
    for branch in range(6):
        fast = rt.compile(unet, DeepCache(2, branch), timesteps=timesteps())
        first = run(fast, **extra)
        assert equal(first, full) == [True, False] * (STEPS // 2)
        assert all(equal(run(fast, **extra), first))


def test_an_aborted_run_and_another_size_leave_nothing() -> None:
    unet = shared(sd_like)
    fast = rt.compile(unet, DeepCache(3, 2), timesteps=timesteps())
    first = run(fast)
    run(fast, 2)
    fast.reset()
    x, t, text = inputs(0, batch=1, size=32)
    fast(x, t, text)
    fast.reset()
    assert all(equal(run(fast), first))


def test_a_schedule_of_shells_survives_its_file(tmp_path: Any) -> None:
    unet = shared(sd_like)
    rows(MIXED, SKIPS).save(tmp_path / "shells.json")
    fast = rt.compile(unet, tmp_path / "shells.json", timesteps=timesteps(len(MIXED)))
    assert all(equal(run(fast, len(MIXED)), by_hand(unet, MIXED)))


def test_a_row_that_computes_inside_of_what_it_reuses_is_refused() -> None:
    schedule = rows([None, 3], SKIPS)
    compute = schedule.compute.copy()
    compute[1, 1] = False
    with pytest.raises(ValueError, match="evaluation 1 computes shell-2 and reuses shell-1"):
        rt.compile(shared(sd_like), rt.CacheSchedule(compute, schedule.branches))


def test_a_policy_that_needs_no_depth_runs_on_shells_too() -> None:
    unet = shared(sd_like)
    schedule = EveryN(2).schedule(4, rows([None], SKIPS).branches)
    fast = rt.compile(unet, schedule, timesteps=timesteps(4))
    depths = [None if full else -1 for full in schedule.compute[:, 0]]
    assert all(equal(run(fast, 4), by_hand_with_ends(unet, depths)))


def test_other_policies_cut_a_unet_at_all_attention_and_mlp_modules_in_the_order_of_calls() -> None:
    unet = sd_like()
    fast = rt.compile(unet, EveryN(2), steps=4, timesteps=timesteps(4))
    called: list[str] = []
    for path in fast.schedule.branches:
        unet.get_submodule(path).register_forward_hook(lambda *_, path=path: called.append(path))
    unet(*inputs(0))
    assert called == list(fast.schedule.branches)
    assert len(called) == 3 * 11
