"""Inputs of `sample` and of calls, checked before any work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toys import call_inputs, drive, random_schedule, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import EveryN, Full

NOISE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("y", "match"),
    [
        ([1, 10_000], r"label 10000; this model has 0 to 9, and 10 for no class"),
        ([-1, 1], r"label -1"),
        (torch.tensor([1, 11]), r"label 11"),
        (torch.tensor([1, 11], dtype=torch.int32), r"label 11"),
        ([True, False], "2 integer labels, got torch.bool"),
        ([1.0, 2.0], "2 integer labels, got torch.float32"),
        (1, r"2 integer labels, got torch.int64 \(\)"),
        ([[1], [2]], r"2 integer labels"),
        (["a", "b"], r"integer labels, got \['a', 'b'\]"),
        ([[1], [2, 3]], r"integer labels, got"),
        (None, "2 integer labels, got None"),
        ("12", "integer labels, got '12'"),
    ],
)
def test_labels_that_the_model_has_not_are_refused(y: Any, match: str) -> None:
    fast = rt.compile(toy_dit(), Full(), steps=2)
    with pytest.raises(ValueError, match=match):
        fast.sample(NOISE, y)
    assert fast.summary().calls == 0


def test_a_model_without_a_null_label_has_one_label_less() -> None:
    fast = rt.compile(toy_dit(class_dropout_prob=0.0), Full(), steps=2)
    fast.sample(NOISE, [0, 9], cfg_scale=1.0)
    with pytest.raises(ValueError, match=r"label 10; this model has 0 to 9$"):
        fast.sample(NOISE, [0, 10], cfg_scale=1.0)
    rt.compile(toy_dit(), Full(), steps=2).sample(NOISE, [0, 10])


def test_an_unconditional_model_takes_no_labels() -> None:
    fast = rt.compile(toy_uvit(num_classes=-1), Full(), steps=2)
    fast.sample(NOISE)
    with pytest.raises(ValueError, match="without labels; leave y out"):
        fast.sample(NOISE, [1, 2])
    x, t, y = call_inputs(0)
    with pytest.raises(ValueError, match="y was given, but the model was made without labels"):
        fast(x, t, y)
    with pytest.raises(ValueError, match="y is missing"):
        rt.compile(toy_uvit(), Full(), steps=2)(x, t)


@pytest.mark.parametrize("shape", [(2, 4, 16, 16), (2, 4, 7, 8), (2, 3, 8, 8), (0, 4, 8, 8)])
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_noise_of_another_size_is_refused_with_the_size(make: Any, shape: tuple[int, ...]) -> None:
    fast = rt.compile(make(), Full(), steps=2)
    with pytest.raises(ValueError, match=r"noise must be \[n, 4, 8, 8\] with n of at least 1, got"):
        fast.sample(torch.randn(shape), [1] * shape[0])
    _, t, y = call_inputs(0)
    with pytest.raises(ValueError, match=r"x must be \[n, 4, 8, 8\]|x is empty"):
        fast(torch.randn(shape), t[: shape[0]], y[: shape[0]])


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_guidance_that_is_no_number_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="cfg_scale must be finite"):
        rt.compile(toy_dit(), Full(), steps=2).sample(NOISE, [1, 2], cfg_scale=scale)
    with pytest.raises(TypeError, match="cfg_scale must be a number, got 'four'"):
        rt.compile(toy_dit(), Full(), steps=2).sample(NOISE, [1, 2], cfg_scale="four")  # type: ignore[arg-type]


def test_noise_elsewhere_than_the_model_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"noise is on meta, the model on cpu: pass noise.to"):
        rt.compile(toy_dit(), Full(), steps=2).sample(NOISE.to("meta"), [1, 2])
    with pytest.raises(TypeError, match="must be a floating tensor, got list"):
        rt.compile(toy_dit(), Full(), steps=2).sample([0.0], [1])  # type: ignore[arg-type]


def test_noise_that_asks_for_a_gradient_is_refused_and_under_no_grad_it_does_not_ask() -> None:
    fast = rt.compile(toy_dit(), Full(), steps=2)
    noise = NOISE.clone().requires_grad_()
    with pytest.raises(ValueError, match=r"no gradients; pass noise.detach\(\)"):
        fast.sample(noise, [1, 2])
    with torch.no_grad():
        assert torch.equal(fast.sample(noise, [1, 2]), fast.sample(NOISE, [1, 2]))


def test_a_call_whose_input_asks_for_a_gradient_warns_that_there_is_none() -> None:
    fast = rt.compile(toy_dit(), Full(), steps=2)
    x, t, y = call_inputs(0)
    with pytest.warns(L2CWarning, match="x requires grad, but compiled calls have no gradients"):
        assert not fast(x.requires_grad_(), t, y).requires_grad
    fast.reset()
    fast(x, t, y)  # Once is enough.
    quiet = rt.compile(toy_dit(), Full(), steps=2)
    with torch.no_grad():
        quiet(x, t, y)


BAD_CALLS: dict[str, Any] = {
    "no images": lambda x, t, y: (x[:0], t[:0], y[:0]),
    "labels for fewer images": lambda x, t, y: (x, t, y[:2]),
    "float labels": lambda x, t, y: (x, t, y.float()),
    "a label out of range": lambda x, t, y: (x, t, y + 9),
    "a negative label": lambda x, t, y: (x, t, y - 1),
    "timesteps for fewer images": lambda x, t, y: (x, t[:2], y),
    "no timesteps": lambda x, t, y: (x, t[:0], y),
    "labels in a table": lambda x, t, y: (x, t, y[:, None]),
}


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_call_is_refused_and_the_next_run_is_as_if_it_had_not_been(
    case: str, backend: str
) -> None:
    fast = rt.compile(toy_dit(), random_schedule(4, 6), backend=backend)
    clean = drive(rt.compile(toy_dit(), random_schedule(4, 6), backend=backend), 4, batch=3)
    for at in range(3):
        drive(fast, at, seed=1, batch=3)
        with pytest.raises(ValueError, match=r"^(x|y|t) "):
            fast(*BAD_CALLS[case](*call_inputs(at, seed=1, batch=3)))
        assert not fast.run.clock.mid_run
    assert all(torch.equal(a, b) for a, b in zip(drive(fast, 4, batch=3), clean, strict=True))


def test_what_the_model_takes_is_taken() -> None:
    """One label or timestep for all images; labels of any whole dtype; other labels per step."""
    model = toy_dit()
    x, t, y = call_inputs(0)
    for args in [(x, t[:1], y), (x, t, y[:1]), (x, t, y[0]), (x, t, y.int()), (x, t, y + 9)]:
        with torch.no_grad():
            want = model(*args)
        fast = rt.compile(model, Full(), steps=1, backend="reference")
        assert torch.equal(fast(*args), want)


def test_labels_written_to_in_place_are_read_again() -> None:
    fast = rt.compile(toy_dit(), EveryN(2), steps=4)
    (x, t, y), (_, t1, _) = call_inputs(0), call_inputs(1)
    y = y.clone()
    fast(x, t, y)
    y.fill_(50)
    with pytest.raises(ValueError, match="label 50"):
        fast(x, t1, y)


def test_labels_of_a_larger_table_are_taken_once_the_model_has_it() -> None:
    model = toy_dit()
    fast = rt.compile(model, Full(), steps=1)
    x, t, y = call_inputs(0)
    model.y_embedder = toy_dit(num_classes=20).y_embedder
    fast(x, t, y + 15)
    assert isinstance(fast.sample(NOISE, [18, 19]), Tensor)


def test_text_to_image_variants_of_uvit_run_their_own_forward_and_have_no_published_loop() -> None:
    model = toy_uvit(num_classes=-1)
    model.context_embed = torch.nn.Linear(6, 32)
    with pytest.warns(L2CWarning, match=r"does not fit: .*text-to-image.*context_embed"):
        fast = rt.compile(model, Full(), steps=1)
    assert fast.backend.name == "own"
    with pytest.raises(ValueError, match="no published loop for UViT"):
        fast.sample(NOISE)
    model = toy_uvit()
    model.pos_embed = torch.nn.Parameter(torch.zeros(1, 22, 32))
    with pytest.raises(ValueError, match="strict: .*22 positions, wanted 2 for time and label"):
        rt.compile(model, Full(), steps=1, strict=True)
