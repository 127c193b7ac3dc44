"""Wrapped, hooked, compiled and quantized models: taken where exact, or told how to unwrap."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict
from torch.distributed.fsdp import FullyShardedDataParallel
from toys import call_inputs, drive, toy_dit

import l2c_rt as rt
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import EveryN, Full


class Holder(nn.Module):
    """timm's ModelEma, a Lightning module: a name for the model, and a forward that calls it."""

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__()
        self.add_module(name, model)


class PassesOn(Holder):
    """peft's PeftModel: attributes are the model's."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self._modules["model"], name)


@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (nn.DataParallel, "model.module"),
        (torch.optim.swa_utils.AveragedModel, "model.module"),
        (lambda m: Holder("ema_model", m), "model.ema_model"),
        (lambda m: Holder("module", nn.DataParallel(m)), "model.module.module"),
        (lambda m: PassesOn("model", m), "model.model"),
        (lambda m: PassesOn("model", PassesOn("model", m)), "model.model.model"),
        (lambda m: nn.Sequential(m), "model.get_submodule('0')"),
        (torch.compile, "model._orig_mod"),
        (lambda m: nn.DataParallel(torch.compile(m)), "model.module._orig_mod"),
        (lambda m: torch.compile(nn.DataParallel(m)), "model._orig_mod.module"),
    ],
)
def test_a_wrapper_is_refused_with_the_line_that_unwraps_it(
    wrap: Callable[[nn.Module], nn.Module], path: str
) -> None:
    inside = toy_dit()
    model = wrap(inside).eval()
    with pytest.raises(TypeError) as refused:
        rt.compile(model, Full(), steps=1)
    assert f"compile({path}, ...)" in str(refused.value)
    named = eval(path, {"model": model})
    rt.compile(named, Full(), steps=1)(*call_inputs(0))


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore:.*(FSDP|NO_SHARD):UserWarning")
@pytest.mark.parametrize("wrapped", ["model", "blocks", "both"])
def test_an_fsdp_model_is_refused_with_the_line_that_gathers_its_parameters(wrapped: str) -> None:
    def shard(module: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(module, device_id=torch.device("cpu"), use_orig_params=True)

    model: Any = toy_dit()
    if wrapped != "model":
        model.blocks = nn.ModuleList(shard(block) for block in model.blocks)
    if wrapped != "blocks":
        model = shard(model)
    with pytest.raises(TypeError, match="sharded by FullyShardedDataParallel") as refused:
        rt.compile(model.eval(), Full(), steps=1)
    plain = toy_dit()
    nn.init.zeros_(plain.x_embedder.proj.weight)
    line = re.search(r"plain\.load_state_dict\(.*True\)\)\)", str(refused.value))
    assert line is not None
    exec(line[0], {"plain": plain, "model": model, **vars(state_dict)})
    fast = rt.compile(plain, Full(), steps=1, backend="reference")
    assert torch.equal(fast(*call_inputs(0)), drive(toy_dit(), 1)[0])


def test_a_model_that_carries_another_beside_its_own_parts_is_no_wrapper() -> None:
    model = toy_dit()
    model.teacher = toy_dit()
    assert rt.compile(model, Full(), steps=1).bound_model.model is model


def hooked_and_unhooked(module: nn.Module) -> None:
    """As accelerate's add_hook_to_module and remove_hook_from_module leave it."""
    module.forward = MethodType(type(module).forward, module)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_a_forward_that_was_put_back_is_no_obstacle(backend: str) -> None:
    model = toy_dit()
    plain = drive(rt.compile(copy.deepcopy(model), EveryN(2), steps=4, backend=backend), 4)
    for module in model.modules():
        hooked_and_unhooked(module)
    fast = rt.compile(model, EveryN(2), steps=4, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(drive(fast, 4), plain, strict=True))


@pytest.mark.parametrize("whose", ["another module's", "another class's"])
def test_a_bound_method_that_is_not_the_modules_own_is_a_replacement(whose: str) -> None:
    model = toy_dit()
    block, other = model.blocks[0], model.blocks[1]
    function = type(block).forward if whose == "another module's" else nn.Identity.forward
    block.forward = MethodType(function, other if whose == "another module's" else block)
    with pytest.raises(ValueError, match="DiTBlock.forward was replaced on the instance"):
        rt.compile(model, Full(), steps=1)


@pytest.mark.parametrize(
    ("mark", "remedy"),
    [
        ("_original_forward", "keep_fp32_wrapper=False"),
        (None, "del module.forward"),
    ],
)
def test_a_replaced_forward_is_refused_with_what_takes_it_off(
    mark: str | None, remedy: str
) -> None:
    model = toy_dit()
    model.forward = functools.partial(type(model).forward, model)
    if mark is not None:
        model.__dict__[mark] = object()
    with pytest.raises(ValueError, match=remedy):
        rt.compile(model, Full(), steps=1)


def test_a_model_on_the_meta_device_is_compiled_to_be_counted_and_not_run() -> None:
    fast = rt.compile(toy_dit().to("meta"), Full(), steps=1, backend="reference")
    assert fast.cost.speedup_limit == 1
    with pytest.raises(ValueError, match="weights are on the meta device"):
        fast(*call_inputs(0))
    with pytest.raises(ValueError, match="weights are on the meta device"):
        fast.sample(torch.randn(1, 4, 8, 8), [1])


def eager(graph: Any, _: Any) -> Any:
    return graph


def blocks_in_place(model: Any) -> None:
    for block in model.blocks:
        block.compile(backend=eager)


def blocks_wrapped(model: Any) -> None:
    model.blocks = nn.ModuleList(torch.compile(b, backend=eager) for b in model.blocks)


def whole_in_place(model: Any) -> None:
    model.compile(backend=eager)


@pytest.mark.parametrize("change", [blocks_in_place, blocks_wrapped, whole_in_place])
@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_compiled_blocks_give_the_same_and_are_noted(
    change: Callable[[Any], None], backend: str
) -> None:
    model = toy_dit()
    plain = drive(rt.compile(copy.deepcopy(model), EveryN(2), steps=4, backend=backend), 4)
    change(model)
    with pytest.warns(L2CWarning, match="graphs that torch.compile made of DiT"):
        fast = rt.compile(model, EveryN(2), steps=4, backend=backend)
    assert any("torch.compile" in reason for reason in fast.summary().reasons)
    assert all(torch.equal(a, b) for a, b in zip(drive(fast, 4), plain, strict=True))


def test_compiling_in_place_after_compile_is_noticed() -> None:
    model = toy_dit()
    fast = rt.compile(model, EveryN(2), steps=4)
    drive(fast, 4)
    whole_in_place(model)
    with pytest.warns(L2CWarning, match="graphs that torch.compile made of DiT"):
        drive(fast, 4)


def test_a_compiled_branch_is_not_fused_and_a_replaced_one_neither() -> None:
    model = toy_dit()
    model.blocks[0].attn.compile(backend=eager)
    with pytest.raises(ValueError, match=r"blocks.0.attn is compiled by torch.compile"):
        rt.compile(model, Full(), steps=1, backend="fused")
    model = toy_dit()
    model.blocks[0].mlp = torch.compile(model.blocks[0].mlp, backend=eager)
    with pytest.raises(ValueError, match=r"blocks.0.mlp is compiled by torch.compile"):
        rt.compile(model, Full(), steps=1, backend="fused")


class Quantized(torch.Tensor):
    """A weight that is more than its numbers, as torchao's are."""


def test_a_weight_that_is_no_plain_tensor_is_not_fused() -> None:
    model = toy_dit()
    linear = model.blocks[0].mlp.fc1
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Quantized), False)
    with pytest.raises(ValueError, match=r"fc1.weight is Quantized, not a plain tensor"):
        rt.compile(model, Full(), steps=1, backend="fused")
    x, t, y = call_inputs(0)
    with torch.no_grad():
        want: Tensor = model(x, t, y)
    assert torch.equal(rt.compile(model, Full(), steps=1)(x, t, y), want)
