"""Products of linears on a CPU: which is taken, that both are right, and weights that change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from l2c_rt.backends.cpu import products as module_under_test
from l2c_rt.backends.cpu.packed import why_not_here, why_not_packed
from l2c_rt.backends.cpu.products import Products, product_chooser
from l2c_rt.backends.tuning.chooser import Chooser

pytestmark = pytest.mark.skipif(bool(why_not_here()), reason=why_not_here())

NO_CHOICES = Chooser("this machine", None, None)


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def layer(bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(48, 80, bias=bias).to(dtype)


def rows(dtype: torch.dtype = torch.float32, *shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 9)), 48, generator=torch.Generator().manual_seed(1)).to(dtype)


def exact(x: Tensor, linear: nn.Linear, gelu: str | None) -> Tensor:
    bias = None if linear.bias is None else linear.bias.double()
    y = F.linear(x.double(), linear.weight.double(), bias)
    return y if gelu is None else F.gelu(y, approximate=gelu)


def error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("way", ["addmm", "packed"])
def test_both_products_are_as_near_to_float64_as_the_linear_itself(
    way: str, bias: bool, gelu: str | None, dtype: torch.dtype
) -> None:
    linear, x = layer(bias, dtype), rows(dtype)
    products = Products(NO_CHOICES, way=way)
    expected = exact(x, linear, gelu)
    plain = linear(x) if gelu is None else F.gelu(linear(x), approximate=gelu)
    for out in (None, torch.full((2, 9, 80), torch.nan, dtype=dtype)):
        y = products(x, linear, gelu, out)
        assert y.dtype == dtype
        assert error(y, expected) <= 2 * error(plain, expected)
    assert (products.nbytes > 0) == (way == "packed")


def test_addmm_writes_to_the_given_tensor() -> None:
    out = torch.empty(2, 9, 80)
    assert Products(NO_CHOICES, way="addmm")(rows(), layer(), None, out) is out


def test_rows_of_any_strides_are_multiplied() -> None:
    linear = layer()
    x = rows(torch.float32, 9, 2).transpose(0, 1)
    for way in ("addmm", "packed"):
        assert error(Products(NO_CHOICES, way=way)(x, linear), exact(x, linear, None)) < 1e-6
    assert Products(NO_CHOICES, way="packed")(x[:0], linear).shape == (0, 9, 80)


@pytest.mark.parametrize("faster", ["addmm", "packed"])
def test_the_faster_one_is_taken_and_remembered(
    faster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"addmm": 1.0, "packed": 1.1 if faster == "addmm" else 0.9}

    def measure(call: Any) -> float:
        return times[call.args[1].kind]

    monkeypatch.setattr(module_under_test, "default_path", lambda: tmp_path / "tune.json")
    monkeypatch.setattr(module_under_test, "cpu_measure", measure)
    linear, x = layer(), rows()
    products = Products(product_chooser())
    products(x, linear)
    assert products.chooser.measured == 2
    assert (products.nbytes > 0) == (faster == "packed")
    later = Products(product_chooser())
    later(x, linear)
    assert (later.chooser.measured, later.nbytes) == (0, products.nbytes)


def test_a_packed_product_that_is_wrong_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "packed_product", lambda x, *_: x.new_zeros(2, 9, 80))
    chooser = Chooser("this machine", None, lambda call: call() or 1.0)
    products = Products(chooser)
    linear, x = layer(), rows()
    assert torch.equal(products(x, linear), linear(x))
    assert "not what the default computes" in chooser.skipped[0]


def test_without_a_measurement_nothing_is_packed() -> None:
    products = Products(NO_CHOICES)
    linear, x = layer(), rows()
    assert torch.equal(products(x, linear), linear(x))
    assert products.nbytes == 0


def test_a_wrong_name_of_a_product_is_refused() -> None:
    with pytest.raises(ValueError, match="way: got 'mkl', wanted one of addmm, packed"):
        Products(NO_CHOICES, way="mkl")


def write_in_place(linear: nn.Linear) -> None:
    linear.weight.mul_(2)


def write_bias(linear: nn.Linear) -> None:
    linear.bias.add_(1)


def replace(linear: nn.Linear) -> None:
    linear.weight = nn.Parameter(linear.weight * 2)


def write_through_data(linear: nn.Linear) -> None:
    linear.weight.data[3, 5] += 1


@pytest.mark.parametrize("change", [write_in_place, write_bias, replace, write_through_data])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_changed_weights_are_packed_anew(change: Any, dtype: torch.dtype | None) -> None:
    linear, x = layer(), rows(dtype or torch.float32)
    products = Products(NO_CHOICES, way="packed", dtype=dtype)
    products(x, linear)
    held = products.nbytes
    change(linear)
    products.begin_run()
    fresh = Products(NO_CHOICES, way="packed", dtype=dtype)
    assert torch.equal(products(x, linear), fresh(x, linear))
    assert products.nbytes == held


def test_a_run_without_a_change_keeps_the_copies() -> None:
    linear, x = layer(), rows()
    products = Products(NO_CHOICES, way="packed")
    products(x, linear)
    copy = products._weights[linear].packed_copy()
    products.begin_run()
    assert products._weights[linear].packed_copy() is copy


def test_dropped_copies_are_made_again() -> None:
    linear, x = layer(), rows()
    products = Products(NO_CHOICES, way="packed")
    before = products(x, linear)
    products.drop()
    assert products.nbytes == 0
    assert torch.equal(products(x, linear), before)


class Wrapped(Tensor):
    """Somebody's own kind of weight."""


class Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


class OwnForward(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def wrapped_layer() -> nn.Linear:
    linear = layer()
    linear._parameters["weight"] = linear.weight.data.as_subclass(Wrapped)  # type: ignore[assignment]
    return linear


def computed_layer() -> nn.Linear:
    linear = layer()
    parametrize.register_parametrization(linear, "weight", Scaled())
    return linear


NOT_PACKED = {
    "a Wrapped": wrapped_layer,
    "computed at every call": computed_layer,
    "float64": lambda: layer(dtype=torch.float64),
    "on meta": lambda: layer().to("meta"),
    "a forward of its own": lambda: OwnForward(48, 80),
}


@pytest.mark.parametrize("reason", NOT_PACKED)
def test_a_linear_that_cannot_be_packed_says_why_and_takes_the_other_product(reason: str) -> None:
    linear = NOT_PACKED[reason]()
    assert reason in why_not_packed(linear)
    products = Products(NO_CHOICES, way="packed")
    named = [("blocks.0.fc1", linear), ("blocks.0.fc2", layer()), ("blocks.0", nn.GELU())]
    (note,) = products.reasons(named)
    assert note.startswith("not packed: blocks.0.fc1: ")
    assert reason in note
    if reason not in ("on meta", "a forward of its own"):
        x = rows(linear.weight.dtype)
        assert torch.equal(products(x, linear), linear(x))
        assert products.nbytes == 0


def test_without_onednn_nothing_is_packed_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module_under_test, "why_not_here", lambda: "oneDNN is not built in")
    products = Products(NO_CHOICES, way="packed")
    linear, x = layer(), rows()
    assert torch.equal(products(x, linear), linear(x))
    assert products.reasons([("fc", linear)]) == ("no packed products: oneDNN is not built in",)
