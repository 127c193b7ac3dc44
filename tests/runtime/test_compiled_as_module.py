"""What `compile` returns is a module of the model's own class, with the model's attributes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from toys import call_inputs, drive, toy_dit
from weights import fill_deterministic

import l2c_rt as rt
from l2c_rt.models import DiT
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import EveryN

STEPS = 4


def compiled(model: nn.Module | None = None, **options: Any) -> rt.Compiled:
    return rt.compile(toy_dit() if model is None else model, EveryN(2), steps=STEPS, **options)


def test_it_is_a_module_of_the_models_class() -> None:
    fast = compiled()
    assert all(isinstance(fast, kind) for kind in (DiT, nn.Module, rt.Compiled))
    assert (type(fast).__name__, type(fast).__module__) == ("DiT", DiT.__module__)
    assert len({type(fast), type(compiled()), DiT, nn.Linear}) == 2
    assert type(fast) in (nn.Linear, DiT)
    assert type(fast) is not DiT
    assert inspect.signature(fast.forward) == inspect.signature(fast.bound_model.model.forward)
    assert inspect.signature(type(fast).forward) == inspect.signature(DiT.forward)
    plain = type(fast)(depth=1, hidden_size=8, num_heads=2, input_size=4, num_classes=2)
    assert type(plain) is DiT


def test_weights_children_and_attributes_are_the_models_in_both_directions() -> None:
    model = toy_dit()
    fast = compiled(model)
    assert {n: id(t) for n, t in fast.named_parameters()} == {
        n: id(t) for n, t in model.named_parameters()
    }
    assert list(fast.state_dict()) == list(model.state_dict())
    assert list(fast.named_children()) == list(model.named_children())
    model.note, fast.other = "set on the model", "set on what compile returned"
    assert (fast.note, model.other) == (model.note, fast.other)
    model.extra = nn.Linear(2, 2)
    assert fast.extra is model.extra


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda m: m.to(torch.float64), lambda m: m.pos_embed.dtype == torch.float64),
        (lambda m: m.half(), lambda m: m.pos_embed.dtype == torch.float16),
        (lambda m: m.train(), lambda m: m.training and m.blocks[0].training),
        (lambda m: m.requires_grad_(False),
         lambda m: not any(p.requires_grad for p in m.parameters())),
        (lambda m: m.apply(lambda part: part.register_buffer("mark", torch.ones(1))),
         lambda m: all(part.mark == 1 for part in m.modules())),
    ],
)  # fmt: skip
def test_what_changes_a_module_changes_the_model(
    change: Callable[[Any], Any], seen: Callable[[Any], bool]
) -> None:
    model = toy_dit()
    fast = compiled(model)
    assert not seen_or_missing(seen, model)
    assert change(fast) is fast
    assert seen(model)
    assert seen(fast)


def seen_or_missing(seen: Callable[[Any], bool], model: nn.Module) -> bool:
    try:
        return seen(model)
    except AttributeError:
        return False


def test_weights_loaded_through_it_are_used_by_the_next_run() -> None:
    fast, other = compiled(), toy_dit()
    fill_deterministic(other, 5)
    before = drive(fast, STEPS)
    fast.load_state_dict(other.state_dict())
    after = drive(fast, STEPS)
    assert not torch.equal(before[-1], after[-1])
    assert all(torch.equal(a, b) for a, b in zip(after, drive(compiled(other), STEPS), strict=True))


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_nothing_is_written_to_the_model(backend: str) -> None:
    model = toy_dit()
    before = dict(vars(model))
    fast = compiled(model, backend=backend)
    drive(fast, STEPS)
    fast.sample(torch.randn(1, 4, 8, 8), [1])
    fast.register_forward_hook(lambda *_: None)
    fast.register_full_backward_hook(lambda *_: None)
    fast.sleep()
    fast.wake()
    assert vars(model) == before
    assert not model._forward_hooks


def test_forward_hooks_on_it_run_around_its_calls_and_not_around_the_models() -> None:
    model = toy_dit()
    fast = compiled(model, backend="reference")
    order: list[str] = []
    fast.register_forward_pre_hook(lambda module, args: order.append("before"))
    handle = fast.register_forward_hook(lambda module, args, out: out + 1)
    x, t, y = call_inputs(0)
    with torch.no_grad():
        plain: Tensor = model(x, t, y)
    assert order == []
    assert torch.equal(fast(x, t, y), plain + 1)
    assert order == ["before"]
    handle.remove()
    fast.reset()
    assert torch.equal(fast(x, t, y), plain)


def test_a_forward_replaced_on_it_is_called_and_can_be_taken_off() -> None:
    model = toy_dit()
    fast = compiled(model)
    session = fast.forward
    fast.forward = lambda *args: session(*args) + 1
    x, t, y = call_inputs(0)
    raised = fast(x, t, y)
    fast.reset()
    del fast.forward
    assert torch.equal(fast(x, t, y) + 1, raised)
    assert "forward" not in vars(model)


class Clashing(DiT):
    """Has names of its own that `Compiled` has as well."""

    registered: ClassVar[list[type]] = []

    def __init_subclass__(cls) -> None:
        Clashing.registered.append(cls)

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.summary = self.plan = self.timesteps = "the model's"
        self.reset = nn.Identity()

    def sample(self) -> str:
        return "the model's"

    def __deepcopy__(self, memo: object) -> str:
        return "the model's"


def test_names_that_clash_are_those_of_the_compiled_model_and_the_model_keeps_its_own() -> None:
    model = Clashing(
        depth=1, hidden_size=8, num_heads=2, input_size=4, num_classes=2, patch_size=2
    ).eval()
    fast = compiled(model)
    assert fast.sample(torch.randn(1, 4, 4, 4), [1]).shape == (1, 4, 4, 4)
    assert fast.summary().steps == fast.plan.num_evaluations == STEPS
    assert fast.timesteps != model.__dict__["timesteps"]
    fast.reset()
    inner = fast.bound_model.model
    assert inner.sample() == inner.summary == inner.plan == inner.timesteps == "the model's"
    with pytest.raises(TypeError, match="compile a copy of the model"):
        copy.deepcopy(fast)
    assert Clashing.registered == []


def test_it_is_not_compiled_again() -> None:
    with pytest.raises(TypeError, match=r"compile\(model.bound_model.model, ...\)"):
        compiled(compiled())


def test_inside_of_what_torch_compile_compiles_it_runs_as_it_is() -> None:
    fast, plain = compiled(), drive(compiled(), STEPS)
    around = torch.compile(lambda x, t, y: 2 * fast(x, t, y), backend="eager")
    assert all(torch.equal(a, 2 * b) for a, b in zip(drive(around, STEPS), plain, strict=True))
    itself = torch.compile(fast, backend="eager")
    assert all(torch.equal(a, b) for a, b in zip(drive(itself, STEPS), plain, strict=True))
    assert fast.summary().runs == 2


def test_a_wrapper_around_it_calls_it() -> None:
    fast = compiled()
    wrapped = nn.DataParallel(fast)
    assert torch.equal(wrapped(*call_inputs(0)), drive(compiled(), 1)[0])
    assert fast.summary().calls == 1


class Sized(DiT):
    """A model that nothing makes without its sizes."""

    def __init__(self, width: int) -> None:
        super().__init__(
            depth=1, hidden_size=width, patch_size=2, num_heads=2, input_size=8, num_classes=10
        )


def test_a_replica_of_data_parallel_is_the_model_itself_and_says_so() -> None:
    model = Sized(32).eval()
    fill_deterministic(model, 0)
    fast = compiled(model)
    with pytest.warns(L2CWarning, match="computed in full: compile a copy of the model"):
        replica = fast._replicate_for_data_parallel()
    assert type(replica) is Sized
    with torch.no_grad():
        for name, part in (*fast.named_children(), *fast.named_parameters(recurse=False)):
            setattr(replica, name, part)
        assert torch.equal(replica(*call_inputs(0)), model(*call_inputs(0)))
