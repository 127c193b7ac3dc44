"""Where models are cut: the rule, and the patterns that users give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import TwoStreamModel, all_equal, call_of, run_loop, times, two_stream_model
from torch import Tensor, nn
from toys import noise, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.adapters.own.sites import branch_sites
from l2c_rt.policies import EveryN, Full

STEPS = 4


class Odd(nn.Module):
    """A block whose children have names of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer, self.channels = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(x)
        return x + self.channels(x)


class OddModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Linear(8, 8), nn.Sequential(Odd(), Odd(), Odd())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.body(self.stem(x) + t.cos()[:, None, None])
        return out


def odd_call(step: int) -> tuple[Tensor, Tensor]:
    return call_of(step)["hidden_states"], torch.full((2,), 900.0 - step)


def compiled(sites: Any, model: nn.Module | None = None) -> Any:
    return rt.compile(
        model or OddModel().eval(), EveryN(2), steps=STEPS, sites=sites, timesteps=times(STEPS)
    )


def test_a_model_without_known_names_is_refused_with_the_lists_seen() -> None:
    with pytest.raises(TypeError, match=r"OddModel has no list of blocks .* body of 3 Odd.*sites="):
        rt.compile(OddModel(), Full(), steps=2)
    with pytest.raises(TypeError, match="lists of modules seen: none"):
        rt.compile(nn.Linear(2, 2), Full(), steps=2)


def test_named_sites_are_cut_in_the_order_of_the_modules() -> None:
    net = OddModel().eval()
    fast = compiled(["body.*.channels", "body.*.mix*", "body.0.mixer"], net)
    assert fast.schedule.branches == tuple(
        f"body.{i}.{child}" for i in range(3) for child in ("mixer", "channels")
    )
    with torch.no_grad():
        outputs = [fast(*odd_call(step)) for step in range(STEPS)]
        own = [net(*odd_call(step)) for step in range(STEPS)]
    assert [torch.equal(a, b) for a, b in zip(outputs, own, strict=True)] == [
        True, True, False, True
    ]  # fmt: skip


def test_named_sites_take_the_place_of_the_rule_and_of_an_adapter() -> None:
    fast = compiled(["blocks.*.ff"], two_stream_model())
    assert fast.schedule.branches == ("blocks.0.ff", "blocks.1.ff")
    own = compiled(["in_blocks.*.attn"], toy_uvit())
    assert (own.backend.name, own.schedule.num_branches) == ("own", 1)


def test_an_output_that_is_a_kept_one_belongs_to_the_caller() -> None:
    fast = compiled(["body.*"])
    with torch.no_grad():
        outputs = [fast(*odd_call(step)) for step in range(STEPS)]
        copies = [out.clone() for out in outputs]
        for out in outputs:
            out.zero_()
        again = [fast(*odd_call(step)) for step in range(STEPS)]
    assert all_equal(copies, again)
    assert torch.equal(copies[2], copies[1])


@pytest.mark.parametrize(
    ("sites", "kind", "message"),
    [
        ("body.*.mixer", TypeError, "wanted a list"),
        ([1], TypeError, "wanted a list"),
        ([], ValueError, "at least one pattern"),
        (["body.*.attn"], ValueError, r"names no module; below 'body.0' are .*body.0.mixer"),
        (["blocks.*.attn"], ValueError, r"names no module; below 'the model' are stem, body"),
        (["body.3.mixer"], ValueError, r"below 'body' are body.0, body.1, body.2"),
        (["body.*", "body.1.mixer"], ValueError, "'body.1.mixer' lies inside 'body.1'"),
    ],
)
def test_patterns_that_name_nothing_useful_are_refused(
    sites: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        compiled(sites)


def test_a_list_of_modules_and_an_adapter_beside_sites_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'blocks' is a ModuleList.*blocks\.\*"):
        compiled(["blocks"], two_stream_model())
    with pytest.raises(ValueError, match="both adapter= and sites="):
        rt.compile(OddModel(), Full(), steps=2, sites=["body.*"], adapter=lambda m: m)


def test_blocks_in_lists_below_another_module_are_found_and_those_inside_blocks_are_not() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = TwoStreamModel()

    wrapped = Wrapped()
    wrapped.net.blocks[0].inner = nn.ModuleList([TwoStreamModel().blocks[0]])
    names = [site.name for site in branch_sites(wrapped)]
    assert names[:4] == [f"net.blocks.{i}.{kind}" for i in range(2) for kind in ("attn", "ff")]
    assert len(names) == 7


def test_a_block_of_the_same_class_between_two_lists_is_a_block() -> None:
    names = [site.name for site in branch_sites(toy_uvit())]
    assert names == [
        f"{block}.{kind}" for block in ("in_blocks.0", "mid_block", "out_blocks.0")
        for kind in ("attn", "mlp")
    ]  # fmt: skip


def test_pieces_of_a_branch_are_not_run_where_it_is_reused() -> None:
    net, calls = two_stream_model(), []
    fast = rt.compile(net, EveryN(2), steps=STEPS, timesteps=times(STEPS))
    for child in ("attn", "proj_mlp", "proj_out"):
        getattr(net.single_blocks[0], child).register_forward_hook(lambda *_: calls.append(1))
    outputs = run_loop(fast, STEPS)
    assert len(calls) == 3 * 3
    assert all_equal(outputs, run_loop(fast, STEPS))


def test_a_known_model_cut_at_sites_keeps_its_published_loop() -> None:
    """Its own forward, all computed: what the adapter's description gives."""
    model = toy_dit()
    fast, whole = (
        rt.compile(model, Full(), steps=4, sites=sites) for sites in (["blocks.*.attn"], None)
    )
    expected = whole.sample(noise(), [1, 2])
    assert (fast.sample(noise(), [1, 2]) - expected).abs().max() < 1e-5 * expected.abs().max()
