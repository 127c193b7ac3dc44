"""What goes wrong with one request, and what the others see of it: nothing."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
import torch
from served import all_equal, at_ticks, compiled, image, solo
from torch import Tensor

import l2c_rt as rt
from l2c_rt.serving.request import DeadlineError, QueueFullError


class Gate:
    """A callback that holds the engine's thread until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, step: int, latents: Tensor) -> None:
        self.reached.set()
        assert self.opened.wait(60)


def adds_up(engine: rt.Engine) -> bool:
    stats = engine.stats()
    return stats.submitted == sum(stats.outcomes.values()) + stats.waiting + stats.running


@pytest.mark.parametrize("backend", ["reference", "fused", "cuda"])
def test_a_request_of_nan_fails_and_the_others_are_bitwise_what_they_are_beside_a_healthy_one(
    backend: str,
) -> None:
    runs = []
    for noise in (image(9), torch.full_like(image(9), torch.nan)):
        with rt.Engine(compiled("DiT", backend)) as engine:
            images = [noise, *map(image, range(4))]
            _, futures = at_ticks(
                engine,
                [0, 0, 1, 2, 2],
                lambda i: engine.submit(images[i], i),
            )
            assert adds_up(engine)
            runs.append(futures)
    with pytest.raises(FloatingPointError, match="not finite"):
        runs[1][0].result(0)
    assert all_equal(runs[0][1:], runs[1][1:])


def test_what_a_callback_raises_its_own_future_gets_and_no_other() -> None:
    def fail(step: int, latents: Tensor) -> None:
        if step == 2:
            raise KeyError("mine")

    fast = compiled()
    with rt.Engine(fast) as engine:
        _, (failed, healthy) = at_ticks(
            engine, [1, 1], lambda i: engine.submit(image(i), i, callback=(fail, None)[i])
        )
        assert engine.stats().outcomes == {"finished": 2, "failed": 1, "cancelled": 0, "expired": 0}
    with pytest.raises(KeyError, match="mine"):
        failed.result(0)
    assert healthy.result(0).isfinite().all()


def test_an_interrupt_in_a_callback_ends_its_request_and_not_the_engine() -> None:
    def interrupt(step: int, latents: Tensor) -> None:
        raise KeyboardInterrupt

    with rt.Engine(compiled()) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.submit(image(0), 0, callback=interrupt).result(60)
        assert engine.serving
        engine.submit(image(0), 0).result(60)


def test_a_callback_may_not_give_latents_back() -> None:
    with rt.Engine(compiled()) as engine:
        future = engine.submit(image(0), 0, callback=lambda k, x: x * 2)
        with pytest.raises(TypeError, match="cannot change the run"):
            future.result(60)


@pytest.mark.parametrize("step", [0, 3])
def test_a_request_may_be_cancelled_at_any_step(step: int) -> None:
    fast, mine = compiled(), Future[Tensor]()

    def cancel(at: int, latents: Tensor) -> None:
        if at == step:
            assert futures[0].cancel()

    futures: list[Future[Tensor]] = [mine]
    gate = Gate()
    with rt.Engine(fast) as engine:
        holder = engine.submit(image(7), 7, callback=gate)
        assert gate.reached.wait(60)
        futures[0] = engine.submit(image(0), 0, callback=cancel)
        other = engine.submit(image(1), 1)
        gate.opened.set()
        for future in (holder, other):
            assert future.result(60).isfinite().all()
        engine.drain(60)
        assert engine.stats().outcomes["cancelled"] == 1
        assert adds_up(engine)
    with pytest.raises(CancelledError):
        futures[0].result(0)


def test_a_deadline_that_passes_fails_that_request_alone() -> None:
    gate = Gate()
    with rt.Engine(compiled(), max_running=1) as engine:
        holder = engine.submit(image(0), 0, callback=gate)
        assert gate.reached.wait(60)
        late, patient = engine.submit(image(1), 1, deadline=1e-3), engine.submit(image(2), 2)
        threading.Event().wait(5e-3)
        gate.opened.set()
        with pytest.raises(DeadlineError, match="before evaluation 0"):
            late.result(60)
        assert holder.result(60).isfinite().all()
        assert patient.result(60).isfinite().all()
        assert engine.stats().outcomes["expired"] == 1


def test_a_full_queue_is_an_error_at_once_and_the_cancelled_take_no_place_in_it() -> None:
    gate = Gate()
    with rt.Engine(compiled(), max_running=1, max_waiting=2) as engine:
        engine.submit(image(0), 0, callback=gate)
        assert gate.reached.wait(60)
        waiting = [engine.submit(image(i), i) for i in (1, 2)]
        with pytest.raises(QueueFullError, match="max_waiting=2"):
            engine.submit(image(3), 3)
        waiting[0].cancel()
        third = engine.submit(image(3), 3)
        gate.opened.set()
        assert third.result(60).isfinite().all()
        engine.drain(60)
        stats = engine.stats()
        assert (stats.submitted, stats.refused) == (4, 1)
        assert adds_up(engine)


def test_an_evaluation_that_raises_fails_the_request_that_it_raises_for() -> None:
    """The model refuses one label; the batch is done again one by one."""
    fast = compiled()
    embedder: Any = fast.bound_model.model.y_embedder

    def refuse(module: object, args: tuple[Any, ...]) -> None:
        if (args[0] == 4).any():
            raise RuntimeError("label 4")

    embedder.register_forward_pre_hook(refuse)
    with rt.Engine(fast) as engine:
        _, futures = at_ticks(engine, [1, 1, 1], lambda i: engine.submit(image(i), 3 + i))
    with pytest.raises(RuntimeError, match="label 4"):
        futures[1].result(0)
    for i in (0, 2):
        assert torch.equal(futures[i].result(0), futures[i].result(0))
        torch.testing.assert_close(futures[i].result(0), solo(fast, i, 3 + i), rtol=1e-4, atol=1e-3)


def test_shutdown_serves_what_was_taken_on_and_takes_no_more() -> None:
    engine = rt.Engine(compiled())
    futures = [engine.submit(image(i), i) for i in range(5)]
    engine.shutdown()
    assert all(future.done() for future in futures)
    assert not engine.serving
    with pytest.raises(RuntimeError, match="shut down"):
        engine.submit(image(0), 0)
    engine.shutdown()


def test_an_error_in_the_block_cancels_what_has_not_ended() -> None:
    gate, futures = Gate(), []

    def fail() -> None:
        with rt.Engine(compiled()) as engine:
            futures.append(engine.submit(image(0), 0, callback=gate))
            futures.append(engine.submit(image(1), 1))
            assert gate.reached.wait(60)
            threading.Timer(0.05, gate.opened.set).start()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(future.cancelled() for future in futures)


def test_waiting_for_itself_is_refused() -> None:
    with rt.Engine(compiled()) as engine:
        for action in (engine.drain, engine.shutdown):
            future = engine.submit(image(0), 0, callback=lambda k, x, action=action: action())
            with pytest.raises(RuntimeError, match="inside a callback"):
                future.result(60)
            if action == engine.drain:
                assert engine.drain(60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either noise or seed"),
        ({"noise": torch.zeros(2, 4, 8, 8), "y": [1, 2]}, "one image"),
        ({"noise": torch.zeros(1, 4, 7, 8), "y": 1}, "must be"),
        ({"seed": 1}, "integer labels"),
        ({"seed": 1, "y": 11}, "label 11"),
        ({"seed": 1, "y": 1, "cfg_scale": float("nan")}, "finite"),
        ({"seed": 1, "y": 1, "deadline": 0}, "deadline"),
        ({"seed": 1, "noise": torch.zeros(1, 4, 8, 8), "y": 1}, "either noise or seed"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_before_they_wait(
    options: dict[str, Any], message: str
) -> None:
    with rt.Engine(compiled()) as engine:
        with pytest.raises(ValueError, match=message):
            engine.submit(**options)
        assert engine.stats().submitted == 0


@pytest.mark.parametrize("name", ["max_batch", "max_waiting", "max_running", "max_age"])
def test_limits_are_whole_numbers_from_one_on(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        rt.Engine(compiled(), **{name: 0})  # type: ignore[arg-type]


def test_a_model_that_is_not_compiled_is_refused() -> None:
    with pytest.raises(TypeError, match=r"rt\.compile"):
        rt.Engine(compiled().bound_model.model)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["reference", "fused", "cuda"])
def test_all_memory_is_there_before_the_first_request(backend: str) -> None:
    fast, sizes = compiled("DiT", backend), []
    for max_running in (2, 4):
        with rt.Engine(fast, max_running=max_running) as engine:
            sizes.append(engine.nbytes)
            for future in [engine.submit(image(i), i) for i in range(8)]:
                future.result(60)
            assert engine.nbytes == sizes[-1]
    program = fast.bound_model.program
    slots = fast.plan.num_slots * 2 * 2 * program.tokens * program.width * 4
    assert slots <= sizes[0] < sizes[1]
