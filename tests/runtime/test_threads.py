"""Sessions and samples from several threads, and what one session answers to a second caller."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from three_backends import STEPS, assert_same, every_backend, fresh
from torch import Tensor, nn
from toys import call_inputs, drive, noise, timesteps

from l2c_rt.runtime.session import Session


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """`work(i)` on a thread of its own each; all have ended."""
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@every_backend
def test_sessions_in_two_threads_equal_two_runs_in_sequence(backend: str) -> None:
    grid = timesteps(STEPS)
    fast = fresh(backend, timesteps=grid)
    expected = [drive(fresh(backend, timesteps=grid), STEPS, seed) for seed in range(2)]
    runs: dict[int, list[list[Tensor]]] = {0: [], 1: []}

    def work(seed: int) -> None:
        with fast.session() as session:
            for _ in range(4):
                runs[seed].append(drive(session, STEPS, seed))

    in_threads(2, work)
    for seed in range(2):
        assert len(runs[seed]) == 4
        for run in runs[seed]:
            assert_same(run, expected[seed])


@every_backend
def test_samples_from_threads_do_not_meet(backend: str) -> None:
    fast = fresh(backend)
    expected = [fast.sample(noise(i), [3, 4]) for i in range(4)]
    latents: dict[int, Tensor] = {}

    def work(i: int) -> None:
        latents[i] = fast.sample(noise(i), [3, 4])

    in_threads(4, work)
    assert_same([latents[i] for i in range(4)], expected)


class Interrupting(nn.Linear):
    """The model's last linear, which calls `work` once at call `at`."""

    work: Callable[[], None]
    at: int

    def forward(self, x: Tensor) -> Tensor:
        self.at -= 1
        if self.at == 0:
            self.work()
        return super().forward(x)


INTRUSIONS: dict[str, Callable[[Session], object]] = {
    "call": lambda s: s(torch.zeros(2, 4, 8, 8), torch.tensor([5, 5]), torch.tensor([1, 2])),
    "forward_with_cfg": lambda s: s.forward_with_cfg(*call_inputs(0), cfg_scale=2.0),
    # Of the session itself: a compiled model samples on another one.
    "sample": lambda s: Session.sample(s, noise(), [1, 2]),
}


def answers(session: Session, intrusion: str) -> list[str]:
    """What another thread is told."""
    messages: list[str] = []

    def work(_: int) -> None:
        with pytest.raises(RuntimeError) as refusal:
            INTRUSIONS[intrusion](session)
        messages.append(str(refusal.value))

    in_threads(1, work)
    return messages


def disturbed(session: Session, at: int, work: Callable[[], None]) -> None:
    linear = session.run.version.model.model.final_layer.linear
    linear.__class__ = Interrupting
    linear.at, linear.work = at, work


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("intrusion", INTRUSIONS)
def test_a_caller_who_is_refused_changes_nothing_of_the_owners_run(
    intrusion: str, known: bool
) -> None:
    fast = fresh("reference", timesteps=timesteps(STEPS) if known else None)
    messages: list[str] = []
    disturbed(fast, 4, lambda: messages.extend(answers(fast, intrusion)))
    assert_same(drive(fast, STEPS), drive(fresh(), STEPS))
    (message,) = messages
    assert "open one session per thread" in message
    summary = fast.summary()
    assert (summary.runs, summary.abandoned, summary.calls) == (1, 0, STEPS)


@pytest.mark.parametrize("intrusion", INTRUSIONS)
def test_a_guided_run_is_not_changed_by_a_caller_who_is_refused(intrusion: str) -> None:
    fast, alone = fresh(), fresh()
    messages: list[str] = []
    disturbed(fast, 4, lambda: messages.extend(answers(fast, intrusion)))
    for step in range(STEPS):
        inputs = call_inputs(step, batch=4)
        expected = alone.forward_with_cfg(*inputs, cfg_scale=1.5)
        assert torch.equal(fast.forward_with_cfg(*inputs, cfg_scale=1.5), expected)
    assert len(messages) == 1


@every_backend
@pytest.mark.parametrize("intrusion", INTRUSIONS)
def test_a_sample_is_not_changed_by_a_caller_who_is_refused(backend: str, intrusion: str) -> None:
    fast, alone = fresh(backend), fresh(backend)
    messages: list[str] = []
    with fast.session() as session, alone.session() as other:

        def callback(step: int, latents: Tensor) -> None:
            if step == 2:
                messages.extend(answers(session, intrusion))

        latents = session.sample(noise(), [1, 2], callback=callback)
        assert torch.equal(latents, other.sample(noise(), [1, 2]))
    assert len(messages) == 1
    assert fast.summary().abandoned == 0
