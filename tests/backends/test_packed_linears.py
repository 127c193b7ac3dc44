"""Models that run their own forward, with packed products in place of their linears."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from composed_flux import FLUX, STEPS, compiled, flux_loop
from diffusers_families import first_tensor
from diffusers_image_families import IMAGE_FAMILIES
from torch import Tensor, nn

import l2c_rt as rt
from l2c_rt.backends.cpu import packed_linears
from l2c_rt.backends.cpu.packed import why_not_here
from l2c_rt.backends.cpu.products import Products
from l2c_rt.methods import DBCache, EasyCache, FirstBlockCache
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import EveryN, Full

pytestmark = pytest.mark.skipif(bool(why_not_here()), reason=why_not_here())


@pytest.fixture(autouse=True)
def _packed_wherever_it_can_be() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("l2c_rt.backends.Products", partial(Products, way="packed"))
        yield


def error(got: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(got, expected, strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def equal(got: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if type(module) is nn.Linear]


@pytest.mark.parametrize("granularity", ["branch", "block"])
def test_all_computed_it_is_the_model_up_to_rounding_and_says_by_how_much(granularity: str) -> None:
    model = FLUX.build()
    fast = compiled(model, Full(), granularity=granularity)
    outputs, own = flux_loop(fast), flux_loop(model)
    assert not equal(outputs, own)
    assert error(outputs, own) < 1e-5
    summary = fast.summary()
    assert summary.checked.startswith("equal up to rounding (")
    assert summary.notes == summary.reasons == ()
    # oneDNN's layout fills up tiles, so that a copy may be larger than a tiny weight.
    assert summary.copied_bytes >= sum(linear.weight.nbytes for linear in linears(model))
    assert f"copies of weights {summary.copied_bytes / 2**20:.1f} MiB" in str(summary)


def test_without_packing_it_is_the_model_bit_by_bit_and_nothing_is_copied() -> None:
    model = FLUX.build()
    fast = compiled(model, Full(), pack=False)
    assert equal(flux_loop(fast), flux_loop(model))
    assert fast.summary().copied_bytes == 0
    assert fast.summary().checked == "not needed, it is what runs"


def test_what_is_kept_and_reused_is_that_of_the_packed_products() -> None:
    model = FLUX.build()
    packed, plain = (compiled(model, EveryN(2), pack=pack) for pack in (True, False))
    outputs = flux_loop(packed)
    assert 0 < error(outputs, flux_loop(plain)) < 1e-5
    assert equal(outputs, flux_loop(packed))


def test_a_first_run_that_is_observed_has_the_last_bits_of_the_later_ones() -> None:
    family = IMAGE_FAMILIES["HiDream"]  # Whose routing no probe without data can follow.
    model = family.build()
    packed, plain = (rt.compile(model, EveryN(2), steps=STEPS, pack=pack) for pack in (True, False))

    def run(fast: Any) -> list[Tensor]:
        with torch.no_grad():
            return [first_tensor(fast(**family.at(step))) for step in range(STEPS)]

    outputs = run(packed)
    assert 0 < error(outputs, run(plain)) < 1e-5
    assert equal(run(packed), outputs)
    costs = [fast.run.lanes.all()[0].workspace.counted.cost for fast in (packed, plain)]
    assert costs[0] == costs[1]


@pytest.mark.parametrize(
    "method",
    [FirstBlockCache(0.3), DBCache(1, 0, 0.3, 1), EasyCache(0.3, ret_steps=1)],
    ids=lambda method: type(method).__name__,
)
def test_a_method_that_decides_takes_packed_products_too(method: Any) -> None:
    model = FLUX.build()
    packed, plain = (compiled(model, method, pack=pack) for pack in (True, False))
    assert 0 < error(flux_loop(packed), flux_loop(plain)) < 1e-5
    assert (packed.last_run.computed == plain.last_run.computed).all()
    assert packed.summary().copied_bytes > 0
    assert plain.summary().copied_bytes == 0
    packed.sleep()
    assert packed.summary().copied_bytes == 0


def test_nothing_of_the_users_model_changes() -> None:
    model = FLUX.build()
    before = [(module, type(module), dict(vars(module))) for module in model.modules()]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flux_loop(compiled(model, EveryN(2)))
    after = [(module, type(module), dict(vars(module))) for module in model.modules()]
    assert before == after
    assert all(torch.equal(tensors[name], t) for name, t in model.state_dict().items())


def a_hook(model: Any) -> str:
    model.transformer_blocks[0].attn.to_q.register_forward_hook(lambda *_: None)
    return "transformer_blocks.0.attn.to_q: it has hooks"


def a_hook_around(model: Any) -> str:
    model.transformer_blocks[0].attn.register_forward_hook(lambda *_: None)
    return "inside a FluxAttention with hooks"


def another_class(model: Any) -> str:
    class Linear(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    model.transformer_blocks[0].attn.to_q.__class__ = Linear
    return "transformer_blocks.0.attn.to_q: Linear is more than a linear"


def another_tensor(model: Any) -> str:
    class Quantized(Tensor):
        pass

    weight = model.transformer_blocks[0].attn.to_q.weight
    weight.__class__ = Quantized
    return "transformer_blocks.0.attn.to_q: its weight is a Quantized"


@pytest.mark.parametrize("change", [a_hook, a_hook_around, another_class, another_tensor])
def test_a_linear_that_is_more_than_one_is_called_as_it_is_and_counted(change: Any) -> None:
    model = FLUX.build()
    reason = change(model)
    fast = compiled(model, Full(), strict=True)
    assert error(flux_loop(fast), flux_loop(model)) < 1e-5
    (note,) = fast.summary().notes
    assert note.startswith("not packed: transformer_blocks.0.attn.to_q")
    assert reason in note


def test_a_hook_that_comes_later_is_called() -> None:
    model, calls = FLUX.build(), list[int]()
    fast = compiled(model, Full())
    flux_loop(fast)
    model.transformer_blocks[0].attn.to_q.register_forward_hook(lambda *_: calls.append(1))
    flux_loop(fast)
    assert len(calls) == STEPS


def test_under_autocast_the_linears_are_the_models_own() -> None:
    model = FLUX.build()
    fast = compiled(model, Full())
    with torch.autocast("cpu", torch.bfloat16):
        assert equal(flux_loop(fast), flux_loop(model))
    assert fast.summary().copied_bytes == 0


@pytest.mark.parametrize("through_data", [False, True])
def test_changed_weights_are_packed_anew(through_data: bool) -> None:
    model = FLUX.build()
    fast = compiled(model, Full())
    before = flux_loop(fast)
    for linear in linears(model):
        with torch.no_grad():
            (linear.weight.data if through_data else linear.weight).mul_(1.25)
    after = flux_loop(fast)
    assert error(after, before) > 1e-3
    assert error(after, flux_loop(model)) < 1e-5


def test_sleep_gives_the_copies_back_and_the_next_run_makes_them_again() -> None:
    fast = compiled(FLUX.build(), Full())
    before = flux_loop(fast)
    copied = fast.summary().copied_bytes
    fast.sleep()
    assert fast.summary().copied_bytes == 0
    fast.wake()
    assert equal(flux_loop(fast), before)
    assert fast.summary().copied_bytes == copied > 0


def test_two_sessions_share_the_copies() -> None:
    fast = compiled(FLUX.build(), Full())
    flux_loop(fast)
    copied = fast.summary().copied_bytes
    with fast.session() as session:
        flux_loop(session)
        assert fast.summary().copied_bytes == copied


@pytest.mark.parametrize("strict", [False, True])
def test_a_product_that_is_wrong_is_not_used(strict: bool, monkeypatch: Any) -> None:
    right = packed_linears.PackedLinears.call

    def wrong(self: Any, *arguments: Any) -> Any:
        return right(self, *arguments) * 1.01

    monkeypatch.setattr(packed_linears.PackedLinears, "call", wrong)
    model = FLUX.build()
    fast = compiled(model, Full(), strict=strict)
    message = "packed products are not used: with them the outputs differ by"
    if strict:
        with pytest.raises(ValueError, match=message):
            flux_loop(fast)
        return
    with pytest.warns(L2CWarning, match=message):
        outputs = flux_loop(fast)
    assert equal(outputs, flux_loop(model))
    assert fast.summary().copied_bytes == 0


def test_without_a_measurement_there_is_no_packing() -> None:
    model = FLUX.build()
    fast = rt.compile(model, Full(), steps=STEPS, tune=False)
    assert fast.backend.copies is None


def test_pack_is_true_or_false() -> None:
    with pytest.raises(TypeError, match="pack: wanted True or False, got 'yes'"):
        compiled(FLUX.build(), Full(), pack="yes")


def test_flags_that_other_threads_left_behind_switch_nothing_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch's are where two threads leave dispatch modes in another order than they entered."""
    monkeypatch.setattr("torch.utils._python_dispatch._is_in_torch_dispatch_mode", True)
    model = FLUX.build()
    assert not equal(flux_loop(compiled(model, Full())), flux_loop(model))
