"""What a twin on meta shows of a call before it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from block_models import Block, OneStream, TwoStreams, built, inputs
from diffusers_families import Family
from diffusers_image_families import IMAGE_FAMILIES
from diffusers_more_image_families import MORE_IMAGE_FAMILIES
from diffusers_more_video_families import MORE_VIDEO_FAMILIES
from diffusers_video_families import VIDEO_FAMILIES
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from toys import call_inputs, toy_dit

from l2c_rt.adapters import bind
from l2c_rt.adapters.own.block_sites import block_sites
from l2c_rt.adapters.own.count import counted_program
from l2c_rt.adapters.own.describe import describe_own
from l2c_rt.adapters.own.meta_twin import meta_twin
from l2c_rt.adapters.own.probe import Probe, ProbeStoppedError, probe
from l2c_rt.adapters.own.sites import Site, branch_sites

FAMILIES = IMAGE_FAMILIES | MORE_IMAGE_FAMILIES | VIDEO_FAMILIES | MORE_VIDEO_FAMILIES
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        lambda q, k, v, *args, out_shape=None, **kwargs: sdpa_flop_count(q, k, v)
}  # fmt: skip


def seen(model: nn.Module, *, text: int | None = None) -> Probe:
    return probe(model, block_sites(model), (), inputs(0, text=text))


def gaps(seen: Probe) -> list[str]:
    return [name for name, site in seen.sites.items() if site.has_gap]


def streams(seen: Probe, name: str) -> list[str | None]:
    return [None if s is None else s.name for s in seen.sites[name].streams]


def test_a_stream_is_the_argument_of_the_next_block_that_an_output_is() -> None:
    found = seen(built(TwoStreams), text=6)  # As many tokens of text, so shapes do not tell.
    assert streams(found, "transformer_blocks.0") == ["encoder_hidden_states", "hidden_states"]
    assert streams(found, "transformer_blocks.3") == [None, "hidden_states"]
    assert gaps(found) == ["transformer_blocks.0"]


def test_outputs_are_known_by_shape_and_dtype() -> None:
    found = seen(built(TwoStreams), text=3)
    text, image = ((2, 3, 8), torch.float32), ((2, 6, 8), torch.float32)
    assert found.sites["transformer_blocks.0"].outputs == (text, image)
    assert found.sites["transformer_blocks.3"].outputs == (image,)


@pytest.mark.parametrize(("options", "expected"), [
    ({}, [0]),
    ({"between": lambda i, x: x + 1 if i == 2 else x}, [0, 2]),
    ({"between": lambda i, x: x.view_as(x) if i == 3 else x}, [0, 3]),
    # The stream goes on as it is, but something else is made of it.
    ({"between": lambda i, x: x if i != 1 else (x.sum(), x)[1]}, [0, 1]),
    ({"skips": {3: 0}}, [0, 1]),
    ({"skips": {3: 2}}, [0]),
])  # fmt: skip
def test_a_gap_is_where_anything_but_the_next_block_reads_an_output(
    options: Any, expected: list[int]
) -> None:
    assert gaps(seen(built(OneStream, **options))) == [f"blocks.{i}" for i in expected]


def test_a_block_that_is_called_twice_is_merged_with_none() -> None:
    model = built(OneStream)
    model.blocks[2] = model.blocks[1]
    # One object at two paths is two sites; one site called twice is what a loop over it makes.
    sites = [Site(f"blocks.{i}", (f"blocks.{i}",), is_block=True) for i in (0, 1, 3)]

    class Looped(OneStream):
        def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
            x, temb = self.proj_in(hidden_states), timestep[:, None].cos()
            for i in (0, 1, 1, 3):
                x = self.blocks[i](x, temb)
            return x

    found = probe(built(Looped), sites, (), inputs(0))
    assert found.sites["blocks.1"].calls == 2
    assert gaps(found) == ["blocks.0", "blocks.1", "blocks.3"]


def test_a_write_in_place_is_seen() -> None:
    site = seen(built(OneStream, in_place=True)).sites["blocks.1"]
    assert (site.overwritten, site.returned) == (("hidden_states",), (True,))


def test_the_counts_of_a_dit_are_those_of_its_program() -> None:
    model = toy_dit()
    args = call_inputs(0)
    found = probe(model, describe_own(model).sites, args, {})
    ours = counted_program(describe_own(model).program, found, args[0].shape[0])
    published = bind(model).program
    assert [(b.macs, b.attention_macs) for b in ours.branches] == [
        (b.macs, b.attention_macs) for b in published.branches
    ]
    assert counted_program(published, found, 1) is published


@pytest.mark.parametrize("name", ["Flux", "SD3", "Wan", "PixArt", "HunyuanDiT", "HunyuanVideo"])
@pytest.mark.parametrize("sites_of", [branch_sites, block_sites])
def test_all_products_of_a_forward_are_counted(name: str, sites_of: Any) -> None:
    family: Family = FAMILIES[name]
    model, given = family.build(), family.at(0)
    found = probe(model, sites_of(model), (), given)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        model(**given)
    total = sum(found.linear_macs.values()) + sum(found.attention_macs.values())
    assert total == counter.get_total_flops() // 2


class Table:
    """A plain object that caches a tensor on the device of its first use, as rotary tables do."""

    def __init__(self) -> None:
        self.cached: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.cached is None:
            self.cached = torch.ones(x.shape[-1], device=x.device)
        return x * self.cached


def test_the_twin_takes_no_memory_and_what_it_caches_stays_with_it() -> None:
    table, caches = Table(), {"none": torch.ones(1)}

    def between(i: int, x: Tensor) -> Tensor:
        return x

    model = built(OneStream, between=between)
    model.table, model.caches, model.blocks[0].table = table, caches, table
    model.register_forward_hook(lambda module, args, out: out * torch.ones(1))
    twin = meta_twin(model, torch.float32)
    assert all(tensor.is_meta for tensor in twin.state_dict().values())
    assert twin.table is not table
    assert twin.table is twin.blocks[0].table
    x = torch.empty(2, 6, 8, device="meta")
    assert twin.table(x).is_meta
    assert twin(x, torch.empty(2, device="meta")).is_meta
    twin.caches["more"] = x
    assert table.cached is None
    assert list(model.caches) == ["none"]
    assert isinstance(twin.blocks[0], Block)


def test_a_probe_that_stops_says_why() -> None:
    model = built(OneStream, between=lambda i, x: x * x.max().item())
    with pytest.raises(ProbeStoppedError, match="_local_scalar_dense"):
        seen(model)


def test_an_autocast_is_followed_from_within_and_without() -> None:
    def exact(i: int, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return x

    assert gaps(seen(built(OneStream, between=exact))) == ["blocks.0"]
    model = built(TwoStreams)
    with torch.autocast("cpu", torch.bfloat16):
        found = seen(model, text=3)
    # The text comes in as float32, and the block adds to it.
    assert found.sites["transformer_blocks.0"].outputs[0] == ((2, 3, 8), torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x = model.proj_in(inputs(0)["hidden_states"])
        assert found.sites["transformer_blocks.3"].outputs == (((2, 6, 8), x.dtype),)
