"""Which backend a model gets on which machine, and what is said where it is not the fast one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from taped_graphs import TapedKernels
from torch import nn
from toys import random_schedule, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt import adapters, backends
from l2c_rt.api import build
from l2c_rt.backends.cuda.cuda_parts import CudaParts
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.options import Options
from l2c_rt.backends.reference import reference_backend
from l2c_rt.device.graphs import Eager
from l2c_rt.methods import DuCa, ToCa
from l2c_rt.notices import L2CWarning
from l2c_rt.plan.program import Fixed
from l2c_rt.policies import Full
from l2c_rt.runtime.token_checks import with_tokens
from l2c_rt.schedule.cache_schedule import default_branches

GPU = torch.device("cuda", 0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine that says it has an H200; its parts can be taken away."""
    facts = SimpleNamespace(capability=(9, 0), triton="3.6.0", memory=lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: facts.capability)
    monkeypatch.setattr(
        "l2c_rt.backends.cuda.support.SlotMemory", lambda *args: facts.memory(*args)
    )
    cuda = CudaParts(TapedKernels(), Eager, Tuner("tape", None, None, device="cpu"))
    monkeypatch.setattr("l2c_rt.backends.cuda.support.cuda_parts_for", lambda device, options: cuda)
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", facts.triton)
    facts.set_triton = lambda version: monkeypatch.setattr(triton, "__version__", version)
    return facts


def chosen(
    name: str, model: nn.Module | None = None, schedule: Any = None, **options: Any
) -> backends.Backend:
    bound_model = adapters.bind(toy_dit() if model is None else model)
    if schedule is not None:
        bound_model = with_tokens(bound_model, schedule)
    return backends.select_backend(name, Options(**options), on_gpu(bound_model))


def on_gpu(bound_model: Any) -> Any:
    return SimpleNamespace(
        fusable=bound_model.fusable,
        why_not_fusable=bound_model.why_not_fusable,
        program=bound_model.program,
        device=GPU,
        open_stage=None,
        unfused_on_gpu=bound_model.unfused_on_gpu,
        refused="",
    )


@pytest.mark.parametrize("name", ["auto", "fused"])
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_on_a_gpu_both_families_are_fused(machine: Any, make: Any, name: str) -> None:
    backend = chosen(name, make())
    assert (backend.name, backend.reasons, backend.extra_slots) == ("fused", (), 1)


def no_memory(*_: Any) -> None:
    raise RuntimeError("CUDA virtual memory is not supported by this driver")


@pytest.mark.parametrize(
    ("variables", "headers", "says"),
    [
        ({"PATH": "/nowhere"}, True, "gcc or clang is not there; apt-get install gcc"),
        ({"CC": "/nowhere/cc"}, True, "/nowhere/cc is not there"),
        ({}, False, "Python.h is not there; apt-get install python3-dev"),
    ],
)
def test_without_what_triton_builds_its_launchers_with_auto_falls_back_and_fused_says_why(
    machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str],
    headers: bool, says: str,
) -> None:  # fmt: skip
    monkeypatch.delenv("CC", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if not headers:
        include = {"include": str(tmp_path)}
        monkeypatch.setattr("sysconfig.get_paths", lambda *_: include)
    with pytest.raises(ValueError, match="launchers") as error:
        chosen("fused")
    assert says in str(error.value)
    assert says in chosen("auto").reasons[0]


def float64() -> nn.Module:
    return toy_dit().double()


def narrow() -> nn.Module:
    return toy_dit(hidden_size=36, num_heads=2)


def wrapped() -> nn.Module:
    model = toy_dit()
    model.blocks[1].attn.proj = nn.Sequential(model.blocks[1].attn.proj)
    return model


def odd_heads() -> nn.Module:
    return toy_dit(hidden_size=40, num_heads=2)


def many_tokens() -> nn.Module:
    return toy_dit(input_size=132)


def lacks_nothing() -> nn.Module:
    return toy_dit()


@pytest.mark.parametrize(
    ("change", "model", "says"),
    [
        ({"capability": (7, 5)}, lacks_nothing, "compute capability 7.5, wanted 8.0"),
        ({"triton": "3.5.1"}, lacks_nothing, "triton is 3.5.1, wanted 3.6 to 3.9; pip install"),
        ({"triton": "3.10.0"}, lacks_nothing, "triton is 3.10.0, wanted 3.6 to 3.9"),
        ({"memory": no_memory}, lacks_nothing, "no cache memory: CUDA virtual memory is not"),
        ({}, float64, "the model is torch.float64, wanted bfloat16, float16 or float32"),
        ({}, narrow, "width 36 is not a multiple of 8"),
        ({}, wrapped, "blocks.1.attn.proj is Sequential"),
    ],
)
def test_a_missing_requirement_is_an_error_or_under_auto_a_note(
    machine: Any, change: dict[str, Any], model: Any, says: str
) -> None:
    for name, value in change.items():
        setattr(machine, name, value)
    if "triton" in change:
        machine.set_triton(change["triton"])
    with pytest.raises(ValueError, match='compile with backend="reference"') as error:
        chosen("fused", model())
    assert says in str(error.value)
    fallback = chosen("auto", model())
    assert fallback.name == "reference"
    assert says in fallback.reasons[0]


@pytest.mark.parametrize(
    ("model", "method", "says"),
    [
        (lacks_nothing, ToCa(cache_type="random"), "scores by lot are drawn on the host"),
        (lacks_nothing, ToCa(cache_type="norm"), "no kernel scores tokens by 'norm'"),
        (odd_heads, DuCa(bonus=0), 'heads of 20 columns.*cache_type="kv-norm" takes any'),
        (many_tokens, DuCa(cache_type="kv-norm"), "4356 tokens, .* takes 4096"),
    ],
)
def test_tokens_that_no_kernel_chooses_are_the_references_and_the_reason_is_said(
    machine: Any, model: Any, method: Any, says: str
) -> None:
    schedule = method.schedule(10, default_branches(6))
    fallback = chosen("auto", model(), schedule)
    assert fallback.name == "reference"
    assert re.search(f"fused backend not used: {says}", fallback.reasons[0])
    with pytest.raises(ValueError, match=f'backend="fused": {says}'):
        chosen("fused", model(), schedule)


def test_a_summary_says_why_tokens_are_the_references_and_strict_raises(machine: Any) -> None:
    def select(described: Any) -> backends.Backend:
        backend = backends.select_backend("auto", Options(), on_gpu(described))
        # The machine has no such GPU: what is made of the choice runs on the model itself.
        return reference_backend(described, backend.reasons)

    method, reason = ToCa(cache_type="random"), "fused backend not used: scores by lot are drawn"
    with pytest.raises(ValueError, match=f"strict: {reason}"):
        build(toy_dit(), method, select, steps=10, strict=True)
    with pytest.warns(L2CWarning, match=reason):
        fast = build(toy_dit(), method, select, steps=10)
    assert reason in fast.summary().reasons[0]


@pytest.mark.parametrize("model", [lacks_nothing, toy_uvit])
@pytest.mark.parametrize("score", ["attention", "kv-norm"])
def test_tokens_are_chosen_by_kernels_on_a_gpu(machine: Any, model: Any, score: str) -> None:
    schedule = DuCa(cache_type=score).schedule(10, default_branches(6))
    assert (chosen("auto", model(), schedule).name, schedule.tokens.rule.score) == ("fused", score)


def test_a_float32_stream_is_not_for_long_skips(machine: Any) -> None:
    model = toy_uvit().to(torch.bfloat16)
    assert chosen("fused", model).name == "fused"
    with pytest.raises(
        ValueError, match="residual_dtype=torch.float32 is not for models with long"
    ):
        chosen("fused", model, residual_dtype=torch.float32)


def test_a_node_without_a_role_is_not_fused(machine: Any) -> None:
    bound_model = adapters.bind(toy_dit())
    nodes = (*bound_model.program.nodes[:-1], Fixed("extra"), bound_model.program.nodes[-1])
    odd = SimpleNamespace(fusable=bound_model.fusable, why_not_fusable="", device=GPU,
                          program=replace(bound_model.program, nodes=nodes),
                          open_stage=None, unfused_on_gpu="", refused="")  # fmt: skip
    with pytest.raises(ValueError, match="node 'extra' has no role"):
        backends.select_backend("fused", Options(), odd)  # type: ignore[arg-type]


def test_options_of_a_gpu_are_checked_and_on_a_cpu_said_to_be_idle() -> None:
    model = toy_dit()
    with pytest.raises(ValueError, match="graph: got 'whole', wanted one of step, trajectory, off"):
        rt.compile(model, Full(), steps=2, graph="whole")
    with pytest.raises(ValueError, match=r"residual_dtype: got torch.int8"):
        rt.compile(model, Full(), steps=2, residual_dtype=torch.int8)
    with pytest.raises(TypeError, match="tune: wanted True or False, got 'yes'"):
        rt.compile(model, Full(), steps=2, tune="yes")  # type: ignore[arg-type]
    for backend in ("reference", "fused"):
        with pytest.warns(L2CWarning, match="graph= has no effect here"):
            fast = rt.compile(model, random_schedule(4, 6), backend=backend, graph="trajectory")
        assert fast.summary().reasons == (
            "graph= has no effect here: only the fused CUDA backend uses it",
        )
