"""Methods that decide at run time, on tapes: what is looked at and the rest are a graph each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from block_models import OneStream, TwoStreams, built, inputs
from own_tapes import OwnRecorder, compile_own
from torch import Tensor, nn
from toys import noise, toy_dit

import l2c_rt as rt
from l2c_rt.backends.backend import MAX_SHAPES
from l2c_rt.backends.graphs.call_graphs import CallGraphs
from l2c_rt.methods import DBCache, DBPrune, EasyCache, FirstBlockCache, SeaCache, SpeCa, TeaCache
from l2c_rt.notices import L2CWarning

STEPS = 10
TIMES = [1.0 - 0.01 * step for step in range(STEPS)]
IDENTITY = (1.0, 0.0)
TEA = TeaCache(0.1, IDENTITY)
FIRST = FirstBlockCache(0.1)
METHODS = [
    FIRST,
    DBCache(2, 1, 0.1, 1),
    DBCache(1, 1, 0.1, 1, taylorseer_order=2),
    DBCache(1, 1, 0.1, 1, taylorseer_order=1, calibrator_cache_type="hidden_states"),
    DBCache(1, 1, 0.1, 1, calibrator_type="foca", max_continuous_cached_steps=3),
    DBCache(1, 1, 0.1, 1, taylorseer_order=1, enable_encoder_calibrator=False),
    DBCache(1, 1, 0.1, 1, force_refresh_step_hint=5),
    DBPrune(1, 0, 0.1, 1),
    DBPrune(1, 1, 0.1, 1, taylorseer_order=1),
    DBPrune(1, 0, 0.1, 1, calibrator_type="foca"),
    TEA,
    EasyCache(0.1, ret_steps=2),
    SpeCa(2, 0.5, 0.5, 1, 3),
]
pytestmark = pytest.mark.usefixtures("shared_probes")
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
# Two rows, each with what is looked at before it; SpeCa's check is a part of its row.
GRAPHS = {"FirstBlockCache": 3, "TeaCache": 3, "EasyCache": 3}


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@cache
def one_stream() -> nn.Module:
    """For all tests of methods: none changes it."""
    model: nn.Module = built(OneStream, 5)
    return model


def pair(method: Any, net: Any = None, **options: Any) -> tuple[Any, Any]:
    """A model with graphs on tapes, and one without."""
    net = net or one_stream()
    given = {"steps": STEPS, "timesteps": TIMES}
    plain = {k: v for k, v in options.items() if k in ("merge", "calls_per_step")}
    return compile_own(net, method, **given, **options), rt.compile(net, method, **given, **plain)


def call(fast: Any, step: int, scale: float = 1.0, shift: int = 0, **options: Any) -> Tensor:
    """Latents that change by some hundredths of their size from step to step."""
    lane = {"lane": options.pop("lane")} if "lane" in options else {}
    given = inputs(shift, **options)
    x = given["hidden_states"] + 0.05 * step * inputs(shift + 1, **options)["hidden_states"]
    given |= {"timestep": torch.full((2,), TIMES[step]), "hidden_states": scale * x}
    out: Tensor = fast(**given, **lane)
    return out.clone()


def run(fast: Any, steps: int = STEPS, **options: Any) -> list[Tensor]:
    return [call(fast, step, **options) for step in range(steps)]


def same(fast: Any, plain: Any, **options: Any) -> None:
    """A run of both, with the same decisions and results, bitwise."""
    given, expected = run(fast, **options), run(plain, **options)
    assert (fast.last_run.acts == plain.last_run.acts).all()
    assert fast.last_run.metric.tolist() == pytest.approx(plain.last_run.metric, abs=0, nan_ok=True)
    assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))


@every_method
def test_runs_are_those_without_graphs_bitwise_and_nothing_is_captured_twice(method: Any) -> None:
    fast, plain = pair(method)
    for shift in (0, 0, 7, 3):
        same(fast, plain, shift=shift)
    graphs = fast.summary().graphs
    assert graphs.reasons == ()
    captured = graphs.graphs
    assert captured == GRAPHS.get(type(method).__name__, captured)
    for _ in range(2):
        same(fast, plain)
    again = fast.summary().graphs
    assert (again.graphs, again.replays) == (captured, graphs.replays + 2 * STEPS)


@every_method
def test_an_abandoned_run_leaves_nothing(method: Any) -> None:
    fast, plain = pair(method)
    for steps in (1, 4, 2, 7):
        run(fast, steps, scale=3.0)
        fast.reset()
        fast.poison()
        same(fast, plain)


@every_method
def test_inputs_of_another_shape_have_graphs_of_their_own(method: Any) -> None:
    fast, plain = pair(method)
    for tokens in (6, 9, 6, 4, 6, 9):
        same(fast, plain, tokens=tokens)
    (lanes,) = {len(fast.run.lanes._shapes)}
    assert lanes <= MAX_SHAPES


@every_method
@pytest.mark.filterwarnings("ignore:the forward is captured in parts", "ignore:no CUDA graphs")
def test_in_parts_a_row_is_chosen_between_two_graphs_of_blocks(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CallGraphs, "_capture_whole", lambda *_: "not here")
    fast, plain = pair(method)
    for shift in (0, 0, 7, 3, 0):
        same(fast, plain, shift=shift)
    assert (fast.summary().graphs.graphs > 0) == (not isinstance(method, SpeCa))


@pytest.mark.filterwarnings("ignore:the forward is captured in parts", "ignore:not captured")
@pytest.mark.parametrize("kind", [DBCache, DBPrune])
def test_predictions_along_modes_read_the_device_and_are_in_no_graph(kind: Any) -> None:
    method = kind(1, 0, 0.1, 4, max_continuous_cached_steps=1, calibrator_type="dmd")
    fast, plain = pair(method)
    for shift in (0, 0, 7, 0):
        same(fast, plain, shift=shift)
    graphs = fast.summary().graphs
    assert any("the host reads a value" in reason for reason in graphs.reasons)
    assert graphs.graphs > 0


def test_what_a_decision_brings_for_the_first_time_is_in_no_graph_yet() -> None:
    """Evaluation 2 computes to slots to which 0 did not: but for the first block, which is as it
    was, nothing of it has run before."""
    method = DBPrune(1, 0, 1.0, 0, max_continuous_cached_steps=1, taylorseer_order=1)
    fast, _ = pair(method)
    run(fast, 3)
    assert fast.summary().graphs.graphs == 1
    fast.reset()
    run(fast)
    assert fast.summary().graphs.graphs > 8


def test_filtered_latents_are_measured_without_a_graph_and_rows_are_captured() -> None:
    class Latents(nn.Module):
        """Latents [B, C, H, W] through blocks of tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = built(OneStream, 4)

        def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
            tokens = hidden_states.flatten(2).transpose(1, 2)
            out: Tensor = self.inner(tokens, timestep)
            return out.transpose(1, 2).reshape(hidden_states.shape)

    fast, plain = pair(SeaCache(0.5), Latents().eval())
    g = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 8, 4, 4, generator=g) for _ in range(2))
    for _ in range(4):
        for step in range(STEPS):
            x, t = first + 0.05 * step * second, torch.full((2,), TIMES[step])
            assert torch.equal(fast(x, timestep=t), plain(x, timestep=t))
        assert (fast.last_run.acts == plain.last_run.acts).all()
    graphs = fast.summary().graphs
    assert graphs.reasons == ()
    assert graphs.graphs >= 2


@pytest.mark.parametrize("method", [FIRST, DBCache(1, 1, 0.1, 1, taylorseer_order=1)])
def test_two_streams_are_captured_as_one_is(method: Any) -> None:
    fast, plain = pair(method, built(TwoStreams, 5))
    for _ in range(4):
        for step in range(STEPS):
            given = inputs(0, text=3) | {"timestep": torch.full((2,), TIMES[step])}
            given["hidden_states"] = given["hidden_states"] * (1 + 0.04 * step)
            assert torch.equal(fast(**given), plain(**given))
        assert (fast.last_run.acts == plain.last_run.acts).all()
    assert fast.summary().graphs.reasons == ()


def test_calls_of_a_step_have_graphs_and_references_of_their_own() -> None:
    fast, plain = pair(FIRST, calls_per_step=2)
    for _ in range(3):
        for step in range(STEPS):
            for lane, scale in ((0, 1.0), (1, 1.0 + 0.5 * (step % 2))):
                given, expected = (call(m, step, scale, lane=lane) for m in (fast, plain))
                assert torch.equal(given, expected)
        assert (fast.last_run.acts == plain.last_run.acts).all()
    acts = fast.last_run.acts
    assert (acts[:, 0] != acts[:, 1]).any()


class Fails(OwnRecorder):
    def capture(self, work: Callable[[], None]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.filterwarnings("ignore:not captured")
def test_a_capture_that_fails_falls_back_with_its_reason_and_strict_raises() -> None:
    fast, plain = pair(FIRST, recorder=Fails)
    expected = run(plain)
    with pytest.warns(L2CWarning, match="captured in parts.*not permitted"):
        runs = [run(fast) for _ in range(3)]
    assert all(torch.equal(a, b) for given in runs for a, b in zip(given, expected, strict=True))
    assert fast.summary().graphs.graphs == 0
    strict, _ = pair(FIRST, recorder=Fails, strict=True)
    with pytest.raises(RuntimeError, match="strict: .*not permitted"):
        run(strict)


@pytest.mark.filterwarnings("ignore:the forward is captured in parts", "ignore:not captured")
def test_what_was_observed_and_is_written_to_later_is_not_taken_over() -> None:
    net = built(OneStream, 5, between=lambda i, x: x.mul_(1.5) if i == 1 else x)
    fast, plain = pair(FIRST, net)
    for _ in range(4):
        same(fast, plain)
    assert any("blocks.0 gave is written to" in reason for reason in fast.summary().graphs.reasons)


def test_what_a_call_adds_is_captured_where_its_output_has_variances_too() -> None:
    fast, plain = pair(EasyCache(0.5, ret_steps=2), toy_dit(learn_sigma=True))
    for _ in range(2):
        x, label = noise(), torch.tensor([1, 2])
        for t in TIMES:
            out, expected = (f(x, torch.full((2,), t), label).clone() for f in (fast, plain))
            assert torch.equal(out, expected)
            x = 0.98 * x + 0.02 * expected[:, :4]
        assert 2 < fast.last_run.computed.sum() < STEPS
    assert fast.summary().graphs.reasons == ()
