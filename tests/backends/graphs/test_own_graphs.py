"""Graphs of a model's own forward, on tapes: what a user may do around them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from own_tapes import OwnRecorder, compile_own
from small_models import TwoStreamModel, all_equal, call_of, run_loop, two_stream_model
from torch import Tensor, nn

import l2c_rt as rt
from l2c_rt.backends.backend import MAX_SHAPES
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import EveryN

STEPS = 6


def pair(net: Any = None, **options: Any) -> tuple[Any, Any]:
    """A model with graphs on tapes, and one without."""
    net = two_stream_model() if net is None else net
    fast = compile_own(net, EveryN(2), steps=STEPS, adapter=None, **options)
    return fast, rt.compile(net, EveryN(2), steps=STEPS)


def test_each_distinct_step_runs_once_is_captured_once_and_then_replayed() -> None:
    fast, plain = pair()
    expected = run_loop(plain, STEPS)
    for _ in range(3):
        assert all_equal(run_loop(fast, STEPS), expected)
    graphs = fast.summary().graphs
    assert (graphs.graphs, graphs.replays, graphs.reasons) == (2, 3 * STEPS - 2, ())
    assert graphs.buffer_bytes > 0
    assert "2 graphs in" in str(fast.summary())


def test_what_a_caller_is_given_no_later_call_writes_to_and_its_writes_change_nothing() -> None:
    fast, plain = pair()
    expected = run_loop(plain, STEPS)
    run_loop(fast, STEPS)
    outputs = run_loop(fast, STEPS)
    run_loop(fast, STEPS)
    assert all_equal(outputs, expected)
    for out in outputs:
        out.zero_()
    assert all_equal(run_loop(fast, STEPS), expected)


def test_a_run_that_is_computed_in_full_is_the_model_also_between_replayed_ones() -> None:
    net = two_stream_model()
    fast, plain = pair(net)
    expected = run_loop(plain, STEPS)
    for _ in range(3):
        assert all_equal(run_loop(fast, STEPS), expected)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", L2CWarning)
            for step in range(STEPS - 2):  # Starts late.
                call = call_of(step + 1)
                assert torch.equal(fast(**call), net(**call))
        fast.reset()


def scaled(net: TwoStreamModel) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.1)


def data_replaced(net: TwoStreamModel) -> None:
    net.blocks[0].ff.weight.data = net.blocks[0].ff.weight.data * 1.5


def another_child(net: TwoStreamModel) -> None:
    net.blocks[0].attn.proj = nn.Linear(8, 8)


def an_attribute(net: TwoStreamModel) -> None:
    net.blocks[0].repeats = 3


def a_hook(net: TwoStreamModel) -> None:
    net.blocks[1].ff.register_forward_hook(lambda module, args, out: out * 1.5)


@pytest.mark.filterwarnings("ignore:no CUDA graphs")
@pytest.mark.parametrize("change", [scaled, data_replaced, another_child, an_attribute, a_hook])
def test_a_change_between_runs_is_in_the_next_run(change: Callable[[Any], None]) -> None:
    net = two_stream_model()
    fast, _ = pair(net)
    for _ in range(2):
        before = run_loop(fast, STEPS)
    change(net)
    expected = run_loop(rt.compile(net, EveryN(2), steps=STEPS), STEPS)
    for _ in range(3):
        assert all_equal(run_loop(fast, STEPS), expected)
    assert not any(torch.equal(a, b) for a, b in zip(before, expected, strict=True))


class Scales:
    """As an adapter's scales: a dictionary in a plain object that a module holds."""

    def __init__(self) -> None:
        self.of = {"style": [1.0]}


def test_a_scale_deep_in_an_object_that_a_module_holds_is_in_the_next_run() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scales.of["style"][0]

    net = two_stream_model()
    net.blocks[0].ff = Scaled(8, 8)
    net.blocks[0].ff.scales = scales = Scales()
    fast, plain = pair(net)
    for scale in (1.0, 0.5, 0.25):
        scales.of["style"][0] = scale
        for _ in range(2):
            assert all_equal(run_loop(fast, STEPS), run_loop(plain, STEPS))


def test_an_aborted_run_a_reset_and_poison_leave_nothing() -> None:
    fast, plain = pair()
    expected = run_loop(plain, STEPS)
    for steps in (1, 3, 2, 5):
        run_loop(fast, steps)
        fast.reset()
        fast.poison()
        assert all_equal(run_loop(fast, STEPS), expected)


def test_graphs_outlast_sleep_and_are_not_launched_meanwhile() -> None:
    fast, plain = pair()
    expected = run_loop(plain, STEPS)
    for _ in range(2):
        assert all_equal(run_loop(fast, STEPS), expected)
        fast.sleep()
        with pytest.raises(RuntimeError, match="asleep"):
            run_loop(fast, 1)
        fast.wake()
    assert all_equal(run_loop(fast, STEPS), expected)
    assert fast.summary().graphs.graphs == 2


def test_sessions_have_graphs_of_their_own_and_may_run_in_threads() -> None:
    fast, plain = pair()
    expected = run_loop(plain, STEPS)
    results: dict[int, list[list[Tensor]]] = {}

    def work(number: int) -> None:
        with fast.session() as session:
            results[number] = [run_loop(session, STEPS) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(all_equal(outputs, expected) for runs in results.values() for outputs in runs)
    with fast.session() as session, torch.no_grad():
        for _ in range(3):
            for step in range(STEPS):
                for called in (fast, session):
                    assert torch.equal(called(**call_of(step)), expected[step])


def test_two_calls_per_step_have_graphs_of_their_own() -> None:
    fast, plain = (
        pair(calls_per_step=2),
        rt.compile(two_stream_model(), EveryN(2), steps=STEPS, calls_per_step=2),
    )
    outputs: list[list[Tensor]] = [[], []]
    for _ in range(3):
        for model, given in zip((fast[0], plain), outputs, strict=True):
            with torch.no_grad():
                given += [
                    model(**call_of(step, text=text)) for step in range(STEPS) for text in (3, 5)
                ]
    assert all_equal(*outputs)
    assert fast[0].summary().graphs.graphs == 4


def test_a_text_of_another_length_has_graphs_of_its_own_and_the_oldest_go() -> None:
    fast, plain = pair()
    for _ in range(2):
        for text in (3, 4, 5, 6, 7):
            for _ in range(2):
                outputs = run_loop(fast, STEPS, text=text)
                assert all_equal(outputs, run_loop(plain, STEPS, text=text))
    assert fast.summary().graphs.graphs <= 2 * MAX_SHAPES
    (lane,) = fast.run.lanes.all()
    assert len(lane.workspace._kinds) == MAX_SHAPES


def test_a_text_of_another_length_between_takes_the_memory_that_graphs_were_made_for() -> None:
    fast, plain = pair()
    run_loop(fast, 3)  # Captures the first distinct step, and not the second.
    fast.reset()
    run_loop(fast, STEPS, text=9)
    for _ in range(3):
        assert all_equal(run_loop(fast, STEPS), run_loop(plain, STEPS))


def test_a_capture_that_fails_falls_back_and_says_why() -> None:
    class Fails(OwnRecorder):
        def capture(self, work: Callable[[], None]) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    fast, plain = pair(recorder=Fails)
    with pytest.warns(L2CWarning) as caught:
        outputs = [run_loop(fast, STEPS) for _ in range(3)]
    assert all(all_equal(given, run_loop(plain, STEPS)) for given in outputs)
    text = "RuntimeError: operation not permitted when stream is capturing"
    assert [str(warning.message) for warning in caught] == [
        f"the forward is captured in parts, not as a whole: {text}",
        f"not captured: blocks.0 and 4 more: {text}",
    ]
    assert fast.summary().graphs.graphs == 0


def test_an_interrupt_inside_a_capture_leaves_a_model_that_runs() -> None:
    class Interrupted(OwnRecorder):
        left = 1

        def capture(self, work: Callable[[], None]) -> Any:
            work()
            if Interrupted.left:
                Interrupted.left -= 1
                raise KeyboardInterrupt
            return super().capture(work)

    fast, plain = pair(recorder=Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_loop(fast, STEPS)
    fast.reset()
    for _ in range(2):
        assert all_equal(run_loop(fast, STEPS), run_loop(plain, STEPS))
    assert fast.summary().graphs.graphs == 2


def test_a_cpu_has_no_graphs() -> None:
    _, plain = pair()
    run_loop(plain, STEPS)
    assert plain.summary().graphs.graphs == 0
