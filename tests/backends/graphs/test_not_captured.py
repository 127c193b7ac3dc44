"""What is not captured, with the reason in the summary, a warning once, an error under strict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from own_tapes import compile_own
from small_models import TwoStreamModel, all_equal, call_of, run_loop, two_stream_model
from torch import Tensor, nn

import l2c_rt as rt
from l2c_rt.adapters import describe
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends import select_backend
from l2c_rt.backends.graphs.workspace import GraphWorkspace
from l2c_rt.backends.options import Options
from l2c_rt.notices import L2CWarning
from l2c_rt.plan.build import build_plan
from l2c_rt.policies import EveryN

STEPS = 6
TIMESTEPS = [900.0 - step for step in range(STEPS)]

Call = Callable[[int], dict[str, Any]]


def with_number(step: int) -> dict[str, Any]:
    return call_of(step) | {"timestep": 900.0 - step}


class Numbered(TwoStreamModel):
    """Takes its timestep as a number, or as a tensor."""

    def forward(self, hidden_states: Tensor, timestep: Any, text: Tensor, scale: float = 1) -> Any:  # type: ignore[override]
        t = torch.as_tensor(timestep).expand(2)
        return super().forward(hidden_states, t, text * scale)


def numbered() -> Numbered:
    torch.manual_seed(0)
    return Numbered().eval()


def with_scale(step: int) -> dict[str, Any]:
    return call_of(step) | {"scale": 1.0 + step / 8}


class Object:
    pass


class WithObject(TwoStreamModel):
    def forward(self, hidden_states: Tensor, timestep: Tensor, text: Tensor, cache: Any) -> Tensor:  # type: ignore[override]
        return super().forward(hidden_states, timestep, text)


class Counting(TwoStreamModel):
    """Counts its calls; a replay would not."""

    called = 0

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        self.called += 1
        return super().forward(*args, **kwargs)


class Reading(TwoStreamModel):
    """The host reads a value between the blocks and the input."""

    def forward(self, hidden_states: Tensor, timestep: Tensor, text: Tensor) -> Tensor:  # type: ignore[override]
        scale = 1.0 if float(timestep[0]) > 500 else 2.0
        return super().forward(hidden_states * scale, timestep, text)


class Writing(TwoStreamModel):
    """Writes to one of its arguments."""

    def forward(self, hidden_states: Tensor, timestep: Tensor, text: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(hidden_states, timestep, text.mul_(0.5))


class Drawing(TwoStreamModel):
    """Draws random numbers, from a seed that it sets."""

    def forward(self, hidden_states: Tensor, timestep: Tensor, text: Tensor) -> Tensor:  # type: ignore[override]
        torch.manual_seed(3)
        return super().forward(hidden_states + torch.randn(8), timestep, text)


def model_of(kind: type[nn.Module]) -> Any:
    torch.manual_seed(0)
    return kind().eval()


CASES: dict[str, tuple[type[nn.Module], Call, str]] = {
    "number": (Numbered, with_number, "no CUDA graphs: the timestep is a Python float"),
    "value": (Numbered, with_scale, "not those of evaluation 0 are not captured: 1.0 became 1.125"),
    "object": (WithObject, lambda step: call_of(step) | {"cache": Object()},
               "no CUDA graphs: an argument is a Object, whose contents cannot be followed"),
    "counter": (Counting, call_of, "in parts, not as a whole: Counting.called is written to"),
    "read": (Reading, call_of, "in parts, not as a whole: the host reads a value in forward"),
    "write": (Writing, call_of, "no CUDA graphs: the forward writes to its arguments"),
    "random": (Drawing, call_of, "in parts, not as a whole: random numbers are drawn in forward"),
}  # fmt: skip


def run(model: Any, call: Call) -> list[Tensor]:
    with torch.no_grad():
        return [model(**call(step)) for step in range(STEPS)]


@pytest.mark.parametrize("case", CASES)
def test_what_a_graph_cannot_repeat_is_done_without_one_and_said_once(case: str) -> None:
    kind, call, reason = CASES[case]
    net = model_of(kind)
    options: dict[str, Any] = {"steps": STEPS, "timesteps": TIMESTEPS}
    expected = run(rt.compile(net, EveryN(2), **options), call)
    fast = compile_own(net, EveryN(2), adapter=None, **options)
    with pytest.warns(L2CWarning) as caught:
        outputs = [run(fast, call) for _ in range(3)]
    assert all(all_equal(given, expected) for given in outputs)
    assert len(caught) == 1
    assert reason in str(caught[0].message)
    assert any(reason in text for text in fast.summary().reasons)
    assert (fast.summary().graphs.graphs > 0) == ("no CUDA graphs" not in reason)
    strict = compile_own(net, EveryN(2), adapter=None, strict=True, **options)
    with pytest.raises(RuntimeError, match='strict: .*compile with graph="off"'):
        run(strict, call)


def test_a_forward_in_parts_goes_on_doing_what_a_replay_would_not() -> None:
    net = model_of(Counting)
    fast = compile_own(net, EveryN(2), adapter=None, steps=STEPS)
    with pytest.warns(L2CWarning, match="called is written to"):
        run_loop(fast, STEPS)
    before = net.called
    for _ in range(3):
        run_loop(fast, STEPS)
    assert fast.summary().graphs.replays >= 2 * STEPS
    assert net.called == before


def test_what_the_forward_writes_to_its_arguments_the_user_finds_there() -> None:
    fast = compile_own(model_of(Writing), EveryN(2), adapter=None, steps=1)
    given = call_of(0)
    text = given["text"].clone()
    with pytest.warns(L2CWarning, match="writes to its arguments"), torch.no_grad():
        fast(**given)
    assert torch.equal(given["text"], text * 0.5)


def test_under_autocast_nothing_is_captured() -> None:
    fast = compile_own(two_stream_model(), EveryN(2), adapter=None, steps=STEPS)
    with pytest.warns(L2CWarning, match="autocast"), torch.autocast("cpu", torch.bfloat16):
        run_loop(fast, STEPS)
    run_loop(fast, STEPS)
    run_loop(fast, STEPS)
    assert fast.summary().graphs.graphs == 2


def a_hook(net: nn.Module) -> None:
    net.blocks[1].ff.register_forward_hook(lambda module, args, out: None)  # type: ignore[union-attr,operator]


def offload(net: nn.Module) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerate.hooks.add_hook_to_module(net, accelerate.hooks.ModelHook())


def layerwise_casting(net: nn.Module) -> None:
    hooks = pytest.importorskip("diffusers.hooks", reason="diffusers is not installed")
    hooks.apply_layerwise_casting(net, torch.float16, torch.float32)


def parallel(net: nn.Module) -> None:
    net.blocks[0].attn._parallel_config = object()  # type: ignore[union-attr,assignment]


@pytest.mark.parametrize(
    ("change", "reason"),
    [(a_hook, "blocks.1.ff has a forward hook"), (offload, "has a hook of accelerate.*ModelHook"),
     (layerwise_casting, "has hooks of diffusers.*LayerwiseCastingHook"),
     (parallel, "blocks.0.attn runs in parallel")],
)  # fmt: skip
def test_hooks_and_what_moves_weights_are_refused(
    change: Callable[[nn.Module], None], reason: str
) -> None:
    net = two_stream_model()
    change(net)
    with pytest.raises(ValueError, match=f"strict: no CUDA graphs: .*{reason}"):
        compile_own(net, EveryN(2), adapter=None, steps=STEPS, strict=True)
    with pytest.warns(L2CWarning, match=f"no CUDA graphs: .*{reason}"):
        fast = compile_own(net, EveryN(2), adapter=None, steps=STEPS)
    plain = run_loop(rt.compile(net, EveryN(2), steps=STEPS), STEPS)
    for _ in range(2):
        assert all_equal(run_loop(fast, STEPS), plain)
    assert fast.summary().graphs.graphs == 0


def test_a_hook_on_all_modules_of_the_process_is_refused() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: None)
    try:
        with pytest.warns(L2CWarning, match="registered for all modules"):
            compile_own(two_stream_model(), EveryN(2), adapter=None, steps=STEPS)
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("graph", "captures", "notes"),
    [("step", True, 0), ("off", False, 0), ("trajectory", True, 1)],
)
def test_the_graph_option_decides_on_a_gpu(
    graph: str, captures: bool, notes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = describe(two_stream_model())
    monkeypatch.setattr(BoundModel, "device", torch.device("cuda", 0))
    backend = select_backend("auto", Options(graph=graph), described)
    schedule = EveryN(2).schedule(STEPS, described.program.branch_names)
    workspace = backend.workspace(build_plan(described.program, schedule))
    assert isinstance(workspace, GraphWorkspace) == captures
    assert len(backend.reasons) == notes
