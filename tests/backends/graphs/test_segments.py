"""Graphs of blocks, where the whole forward cannot be one: where they begin, and what ends them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from block_models import OneStream, built, inputs
from own_tapes import compile_own
from torch import Tensor

import l2c_rt as rt
from l2c_rt.backends.graphs.call_graphs import CallGraphs
from l2c_rt.backends.graphs.segments import Segments
from l2c_rt.policies import EveryN

STEPS = 6
TIMESTEPS = [900.0 - 40 * step for step in range(STEPS)]
IN_PARTS = "the forward is captured in parts, not as a whole: not here"


@pytest.fixture(autouse=True)
def _only_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CallGraphs, "_capture_whole", lambda *_: "not here")


pytestmark = pytest.mark.filterwarnings("ignore::l2c_rt.notices.L2CWarning")


def run(model: Any, steps: int = STEPS) -> list[Tensor]:
    with torch.no_grad():
        return [model(**inputs(step)) for step in range(steps)]


def graphs_of(net: Any, **options: Any) -> tuple[list[tuple[int, int]], tuple[str, ...]]:
    """The segments of a model whose runs on tapes equal those without graphs, and the reasons."""
    given: dict[str, Any] = {"steps": STEPS, "timesteps": TIMESTEPS, **options}
    expected = run(rt.compile(net, EveryN(2), **given))
    fast = compile_own(net, EveryN(2), adapter=None, **given)
    for _ in range(4):
        assert all(torch.equal(a, b) for a, b in zip(run(fast), expected, strict=True))
    return sorted({*map(tuple, segments_of(fast)._starts.values())}), fast.summary().graphs.reasons


def segments_of(fast: Any) -> Segments:
    (lane,) = fast.run.lanes.all()
    segments: Segments = lane.workspace._kinds[-1]._segments
    return segments


@pytest.mark.parametrize("granularity", ["branch", "block"])
def test_blocks_that_hand_on_what_they_gave_are_one_graph(granularity: str) -> None:
    net = built(OneStream)
    assert graphs_of(net, granularity=granularity) == ([(0, 4)], (IN_PARTS,))


def test_a_graph_ends_where_the_models_own_code_reads_what_a_block_gave() -> None:
    net = built(OneStream, between=lambda i, x: x.tanh() if i == 2 else x)
    assert graphs_of(net) == ([(0, 2), (2, 4)], (IN_PARTS,))


def test_a_graph_ends_where_an_output_is_read_and_then_handed_on_as_it_is() -> None:
    sums: list[Tensor] = []

    def between(i: int, x: Tensor) -> Tensor:
        if i == 2 and x.device.type == "cpu":  # Not the probe's.
            sums.append(x.sum())
        return x

    assert graphs_of(built(OneStream, between=between)) == ([(0, 2), (2, 4)], (IN_PARTS,))
    assert not torch.stack(sums).isnan().any()


def test_a_graph_ends_where_a_later_one_is_given_its_output() -> None:
    net = built(OneStream, between=lambda i, x: x.tanh() if i == 2 else x, skips={3: 0})
    assert graphs_of(net) == ([(0, 1), (1, 2), (2, 3), (3, 4)], (IN_PARTS,))


def test_a_long_skip_inside_of_a_graph_is_a_part_of_it() -> None:
    assert graphs_of(built(OneStream, skips={3: 0})) == ([(0, 4)], (IN_PARTS,))


def test_a_block_that_writes_to_its_arguments_is_not_captured() -> None:
    segments, reasons = graphs_of(built(OneStream, in_place=True))
    assert segments == []
    assert reasons[1] == "not captured: blocks.0 and 3 more: it writes to its arguments"


class Reader(torch.nn.Linear):
    """The host reads a value."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2.0 if float(x.sum()) > -1e9 else 1.0)


def test_only_the_block_that_reads_the_host_is_left_out() -> None:
    net = built(OneStream)
    net.blocks[2].mlp = Reader(8, 8)
    segments, reasons = graphs_of(net)
    assert segments == [(0, 2), (3, 4)]
    assert reasons[1].startswith("not captured: blocks.2: the host reads a value in forward")


class Modulated(OneStream):
    """Gives each block a tensor of its own, as Chroma does."""

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        x = self.proj_in(hidden_states)
        for i, block in enumerate(self.blocks):
            x = block(x, (timestep[:, None] + i).cos() / 2)
        out: Tensor = self.proj_out(x)
        return out


def test_merged_blocks_are_captured_together_or_not_at_all() -> None:
    net = built(Modulated)
    segments, reasons = graphs_of(net, granularity="block")
    assert segments == []
    assert "blocks.0 and 3 more: it is kept as one with blocks that one graph cannot" in reasons[1]
    apart = [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert graphs_of(net, granularity="block", merge=False) == (apart, (IN_PARTS,))
    assert graphs_of(net) == (apart, (IN_PARTS,))


@pytest.mark.parametrize("granularity", ["branch", "block"])
def test_a_forward_that_does_something_else_between_blocks_is_done_again_without_graphs(
    granularity: str,
) -> None:
    hot: list[bool] = []
    net = built(OneStream, between=lambda i, x: x * 2 if hot and i == 2 else x)
    options: dict[str, Any] = {"steps": STEPS, "timesteps": TIMESTEPS, "granularity": granularity}
    fast = compile_own(net, EveryN(2), adapter=None, merge=False, **options)
    for _ in range(3):
        run(fast)
    assert fast.summary().graphs.graphs > 0
    hot.append(True)
    expected = run(rt.compile(net, EveryN(2), merge=False, **options))
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(run(fast), expected, strict=True))
    text = "no CUDA graphs: the forward did other calls than before: an argument of blocks.2 is"
    assert any(text in reason for reason in fast.summary().reasons)


def test_buffers_do_not_grow_with_the_number_of_blocks() -> None:
    sizes = []
    for depth in (4, 12):
        net = built(OneStream, depth, between=lambda i, x: x + 1)
        fast = compile_own(net, EveryN(2), adapter=None, steps=STEPS, timesteps=TIMESTEPS)
        for _ in range(3):
            run(fast)
        assert segments_of(fast).graphs == 2 * depth
        sizes.append(segments_of(fast).nbytes)
    # Those whose outputs the model's own code reads have buffers of their own.
    tensor = inputs(0)["hidden_states"].nbytes
    assert sizes[1] - sizes[0] == 8 * tensor
