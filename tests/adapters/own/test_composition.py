"""LoRA, quantised weights, checkpointing and torch.compile on a model that runs its own forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from composed_flux import FLUX, STEPS, check_composes, compiled, flux_loop
from small_models import all_equal, run_loop, times, two_stream_model

import l2c_rt as rt
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import EveryN, Full


def lora(*targets: str) -> Any:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    return peft.LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("where", ["the model", "what compile returned"])
def test_lora_adapters_added_scaled_switched_and_removed_are_in_the_next_run(where: str) -> None:
    one, two = lora("to_q", "x_embedder", "proj_mlp", "proj_out"), lora("to_v", "net.2")
    model = FLUX.build()
    full, fast = (compiled(model, policy) for policy in (Full(), EveryN(2)))
    plain = flux_loop(fast)
    target: Any = model if where == "the model" else fast
    changes: list[Callable[[], object]] = [
        lambda: target.add_adapter(one, adapter_name="one"),
        lambda: target.add_adapter(two, adapter_name="two"),
        lambda: target.set_adapters(["one", "two"], [0.5, 0.7]),
        lambda: target.set_adapters(["two"], [0.3]),
        target.disable_adapters,
        target.enable_adapters,
        lambda: target.delete_adapters("one"),
    ]
    before = plain
    for change in changes:
        change()
        assert all_equal(flux_loop(full), flux_loop(model))
        cached = flux_loop(fast)
        assert all_equal(cached, flux_loop(compiled(model, EveryN(2))))
        if change is not changes[-1]:
            assert not all_equal(cached, before)
        before = cached
    target.unload_lora()
    assert all_equal(flux_loop(fast), plain)


def test_the_scale_of_a_call_reaches_the_adapters() -> None:
    model = FLUX.build()
    model.add_adapter(lora("to_q", "proj_out"))
    check_composes(model, joint_attention_kwargs={"scale": 0.5})
    assert not all_equal(flux_loop(model), flux_loop(model, joint_attention_kwargs={"scale": 0.5}))


def test_a_fused_adapter_is_in_the_weights() -> None:
    model = FLUX.build()
    fast = compiled(model, EveryN(2))
    before = flux_loop(fast)
    model.add_adapter(lora("to_q"), adapter_name="one")
    model.fuse_lora()
    check_composes(model)
    assert not all_equal(flux_loop(fast), before)


@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Float8WeightOnlyConfig"])
@pytest.mark.filterwarnings("ignore")  # torchao's own, at import
def test_weights_quantised_by_torchao_run(config: str) -> None:
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    model = FLUX.build()
    full = compiled(model, Full())
    plain = flux_loop(full)
    torchao.quantize_(model, getattr(torchao, config)())
    check_composes(model)
    assert all_equal(flux_loop(full), flux_loop(model))
    assert not all_equal(flux_loop(full), plain)


@pytest.mark.parametrize("training", [False, True])
def test_a_model_with_gradient_checkpointing_runs(training: bool) -> None:
    model = FLUX.build().train(training)
    model.enable_gradient_checkpointing()
    check_composes(model)


def counting(calls: list[int]) -> Callable[[Any, Any], Any]:
    """A backend of torch.compile that counts the calls of its graphs."""

    def backend(graph: Any, _: Any) -> Any:
        def run(*args: Any) -> Any:
            calls.append(1)
            return graph.forward(*args)

        return run

    return backend


def test_compiled_blocks_are_called_whole_where_blocks_are_what_is_cut() -> None:
    model, calls = FLUX.build(), list[int]()
    own = flux_loop(model)
    model.compile_repeated_blocks(fullgraph=True, backend=counting(calls))
    depth = len(model.transformer_blocks) + len(model.single_transformer_blocks)
    counts = {}
    for policy in (Full(), EveryN(2)):
        fast = compiled(model, policy, granularity="block")
        calls.clear()
        outputs = flux_loop(fast)
        assert fast.summary().reasons == ()
        assert [torch.equal(a, b) for a, b in zip(outputs, own, strict=True)] == [
            True, True, policy == Full(), True
        ]  # fmt: skip
        counts[policy] = len(calls)
    assert counts == {Full(): STEPS * depth, EveryN(2): (STEPS - 1) * depth}


@pytest.mark.slow
def test_blocks_compiled_by_inductor_are_called_whole() -> None:
    model = FLUX.build()
    model.compile_repeated_blocks(fullgraph=True)
    own = flux_loop(model)
    full, fast = (compiled(model, policy, granularity="block") for policy in (Full(), EveryN(2)))
    assert all_equal(flux_loop(full), own)
    cached = flux_loop(fast)
    assert [torch.equal(a, b) for a, b in zip(cached, own, strict=True)] == [
        True, True, False, True
    ]  # fmt: skip
    assert all_equal(flux_loop(fast), cached)


def one_block_in_place(model: Any) -> None:
    model.transformer_blocks[1].compile(backend="eager")


def one_block_wrapped(model: Any) -> None:
    blocks = model.transformer_blocks
    blocks[1] = torch.compile(blocks[1], backend="eager")


@pytest.mark.parametrize("compile_one", [one_block_in_place, one_block_wrapped])
def test_the_graph_of_a_block_is_not_run_where_its_branches_are_cut(
    compile_one: Callable[[Any], None],
) -> None:
    model = FLUX.build()
    plain = compiled(FLUX.build(), EveryN(2))
    compile_one(model)
    message = r'made of FluxTransformerBlock are not run.*granularity="block" calls whole blocks'
    with pytest.warns(L2CWarning, match=message):
        fast = compiled(model, EveryN(2))
    assert fast.schedule.branches == plain.schedule.branches
    assert all_equal(flux_loop(fast), flux_loop(plain))
    with pytest.raises(ValueError, match="strict: the graphs that torch.compile made"):
        compiled(model, EveryN(2), strict=True)


def test_the_graphs_of_attention_and_mlp_are_run_where_they_are_computed() -> None:
    model, calls = FLUX.build(), list[int]()
    block = model.transformer_blocks[1]
    block.attn.compile(backend=counting(calls))
    block.ff = torch.compile(block.ff, backend=counting(calls))
    flux_loop(model)
    calls.clear()
    flux_loop(compiled(model, EveryN(2)))
    assert len(calls) == 2 * (STEPS - 1)


def test_a_model_compiled_by_torch_runs_its_own_forward_and_says_so() -> None:
    net = two_stream_model()
    net.compile(backend="eager")
    with pytest.warns(L2CWarning, match="graphs that torch.compile made of TwoStreamModel"):
        fast = rt.compile(net, Full(), steps=STEPS, timesteps=times(STEPS))
    assert all_equal(run_loop(fast, STEPS), run_loop(two_stream_model(), STEPS))
    with pytest.raises(TypeError, match=r"compile\(model._orig_mod, ...\)"):
        rt.compile(torch.compile(two_stream_model(), backend="eager"), Full(), steps=STEPS)
