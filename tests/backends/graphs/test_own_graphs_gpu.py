"""Graphs of models' own forwards on a GPU."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from diffusers_families import Family, first_tensor
from diffusers_image_families import IMAGE_FAMILIES
from diffusers_more_image_families import MORE_IMAGE_FAMILIES
from diffusers_more_video_families import MORE_VIDEO_FAMILIES
from diffusers_video_families import VIDEO_FAMILIES
from gpu_runs import waits_refused
from small_models import call_of, two_stream_model
from torch import Tensor
from torch.utils._pytree import tree_map

import l2c_rt as rt
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import EveryN
from l2c_rt.schedule.cache_schedule import CacheSchedule

STEPS = 6
FAMILIES = IMAGE_FAMILIES | MORE_IMAGE_FAMILIES | VIDEO_FAMILIES | MORE_VIDEO_FAMILIES
IN_PARTS = ("Chroma", "CogView4", "EasyAnimate", "GlmImage", "HunyuanVideo15", "Kandinsky5",
            "Lumina2", "Mochi", "OmniGen")  # fmt: skip
"""Families that a GPU cannot capture as a whole (tests/backends/graphs/test_graph_families.py)."""

pytestmark = pytest.mark.gpu


def on_gpu(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.cuda() if isinstance(leaf, Tensor) else leaf, value)


def run_small(model: Any, **sizes: int) -> list[Tensor]:
    with torch.no_grad():
        return [model(**on_gpu(call_of(step, **sizes))) for step in range(STEPS)]


def run_family(family: Family, model: Any, steps: int = 4) -> list[Tensor]:
    with torch.no_grad():
        return [first_tensor(model(**on_gpu(family.at(step)))) for step in range(steps)]


def all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def pair(**options: Any) -> tuple[Any, Any]:
    """A small model with graphs, and one without."""
    net = two_stream_model().cuda()
    plain = rt.compile(net, EveryN(2), steps=STEPS, graph="off", **options)
    return rt.compile(net, EveryN(2), steps=STEPS, **options), plain


@pytest.mark.parametrize("granularity", ["branch", "block"])
def test_replays_equal_evaluations_without_graphs(granularity: str) -> None:
    fast, plain = pair(granularity=granularity)
    expected = run_small(plain)
    assert plain.summary().graphs.graphs == 0
    for _ in range(3):
        assert all_equal(run_small(fast), expected)
    graphs = fast.summary().graphs
    assert (graphs.graphs, graphs.replays, graphs.reasons) == (2, 3 * STEPS - 2, ())


@pytest.mark.filterwarnings("ignore::l2c_rt.notices.L2CWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_replays_what_it_computes(name: str) -> None:
    family = FAMILIES[name]
    model = family.build().cuda()
    branches = rt.compile(model, EveryN(2), steps=4).schedule.branches
    half = (np.arange(len(branches)) % 2 == 0).tolist()
    schedule = CacheSchedule(np.array([[True] * len(branches), half] * 2), branches)
    if rt.compile(model, schedule, backend="auto").backend.name != "own":
        pytest.skip("runs on the fused backend")
    expected = run_family(family, rt.compile(model, schedule, graph="off"))
    fast = rt.compile(model, schedule)
    for _ in range(3):
        assert all_equal(run_family(family, fast), expected)
    stats = fast.summary().graphs
    print(f"{name}: {stats}, {stats.reasons}")
    assert name in IN_PARTS or stats.graphs >= 2 or stats.reasons


def test_inputs_that_live_on_the_host_are_moved() -> None:
    fast, plain = pair()
    expected = run_small(plain)
    for _ in range(3):
        for step in range(STEPS):
            given = on_gpu(call_of(step))
            with torch.no_grad():
                out = fast(**given | {"timestep": given["timestep"].cpu()})
            assert torch.equal(out, expected[step])


def test_no_call_but_a_runs_first_waits_for_the_device_once_the_graphs_exist() -> None:
    fast, _ = pair()
    calls = [on_gpu(call_of(step)) for step in range(STEPS)]
    for _ in range(2):
        run_small(fast)
    with torch.no_grad():
        # Its timestep, which tells the loop, is read.
        fast(**calls[0])
        with waits_refused():
            for call in calls[1:]:
                fast(**call)


def test_streams_threads_and_sessions_do_not_disturb_each_other() -> None:
    fast, plain = pair()
    expected = run_small(plain)
    results: dict[int, list[list[Tensor]]] = {}

    def work(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()), fast.session() as session:
            results[number] = [run_small(session) for _ in range(3)]
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(all_equal(given, expected) for runs in results.values() for given in runs)
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    for step in range(STEPS):
        with torch.cuda.stream(streams[step % 2]), torch.no_grad():
            out = fast(**on_gpu(call_of(step)))
            assert torch.equal(out, expected[step])


def test_weights_sleep_and_other_shapes_between_runs() -> None:
    fast, plain = pair()
    for change in range(3):
        for text in (3, 5, 3):
            expected = run_small(plain, text=text)
            for _ in range(2):
                assert all_equal(run_small(fast, text=text), expected)
        fast.sleep()
        fast.wake()
        if change == 1:
            with torch.no_grad():
                for parameter in fast.parameters():
                    parameter.mul_(1.05)


def test_memory_stops_growing() -> None:
    fast, _ = pair()
    for text in (3, 5, 7, 9, 11, 13) * 2:
        run_small(fast, text=text)
        run_small(fast, text=text)
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    for text in (3, 5, 7, 9, 11, 13) * 4:
        run_small(fast, text=text)
        run_small(fast, text=text)
    assert torch.cuda.memory_reserved() <= before + (1 << 26)


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_a_whole_loop_in_a_users_capture_is_refused() -> None:
    fast, _ = pair()
    run_small(fast)
    given = on_gpu(call_of(0))
    with (
        pytest.raises(RuntimeError, match='graph="off"'),
        torch.no_grad(),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        fast(**given)


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
def test_blocks_compiled_by_torch_are_captured() -> None:
    family = FAMILIES["Flux"]
    model = family.build().cuda()
    model.compile_repeated_blocks(fullgraph=True)
    options: dict[str, Any] = {"steps": 4, "granularity": "block"}
    expected = run_family(family, rt.compile(model, EveryN(2), graph="off", **options))
    fast = rt.compile(model, EveryN(2), **options)
    for _ in range(3):
        assert all_equal(run_family(family, fast), expected)
    assert fast.summary().graphs.graphs == 2


def test_a_python_number_as_timestep_is_refused_with_the_reason() -> None:
    class Numbered(type(two_stream_model())):  # type: ignore[misc]
        def forward(self, hidden_states: Tensor, timestep: float, text: Tensor) -> Tensor:
            t = torch.full((2,), timestep, device=hidden_states.device)
            out: Tensor = super().forward(hidden_states, t, text)
            return out

    torch.manual_seed(0)
    fast = rt.compile(Numbered().eval().cuda(), EveryN(2), steps=2)
    call = on_gpu(call_of(0))
    with pytest.warns(L2CWarning, match="Python float"), torch.no_grad():
        fast(**call | {"timestep": 900.0})
    assert fast.summary().graphs.graphs == 0
