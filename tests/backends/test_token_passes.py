"""The extension's choice of tokens and its scores against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from l2c_rt.backends import token_choice
from l2c_rt.backends.cpu.attention import Attention
from l2c_rt.backends.cpu.rows import norm_input, norm_some
from l2c_rt.backends.cpu.token_passes import choose_and_age, put_back
from l2c_rt.backends.tuning.chooser import Chooser
from l2c_rt.schedule.tokens import TokenRule


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sets(places: Tensor) -> list[set[int]]:
    return [set(row) for row in places.tolist()]


@pytest.mark.parametrize("tokens", [16, 17, 18, 64, 256])
@pytest.mark.parametrize("bonus", [0.0, 0.6])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_same_tokens_are_chosen_in_rising_order(
    tokens: int, bonus: float, share: float
) -> None:
    rule = TokenRule("attention", 0.25, 3, bonus)
    # Negative scores too, which a bonus lowers.
    scores, ages = drawn(3, tokens), drawn(3, tokens, seed=1).abs().mul(5).round()
    count = int(share * tokens)
    expected, older = token_choice.choose_and_age(scores, ages, rule, count)
    places, now = choose_and_age(scores, ages, rule, count)
    assert places.shape == (3, count)
    assert torch.equal(places, places.sort(dim=-1).values)
    assert sets(places) == sets(expected)
    assert now is ages
    assert torch.equal(now, older)


def test_of_equal_scores_the_first_tokens_are_chosen_and_nan_comes_before_numbers() -> None:
    rule = TokenRule("attention", 0.25, 3, 0.0)
    scores = torch.zeros(1, 16)
    assert choose_and_age(scores, torch.zeros_like(scores), rule, 3)[0].tolist() == [[0, 1, 2]]
    scores[0, 9] = torch.nan
    assert choose_and_age(scores, torch.zeros_like(scores), rule, 1)[0].tolist() == [[9]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("tokens", [1, 65, 256])
def test_scores_are_of_the_maps_columns_ages_are_0_and_the_output_is_the_same(
    dtype: torch.dtype, tokens: int
) -> None:
    qkv = drawn(2, tokens, 3, 3, 24).to(dtype).unbind(2)
    attention = Attention(Chooser("", None, None), "native")
    mixed, (scores, ages) = attention.with_scores(*qkv, 0.3)
    q, k, _ = (x.double().transpose(1, 2) for x in qkv)
    exact = torch.softmax(q @ k.transpose(-2, -1) * 0.3, -1).sum((1, 2))
    exact = exact / exact.norm(dim=-1, keepdim=True)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), exact, rtol=3e-2 if dtype.itemsize == 2 else 1e-5,
                               atol=1e-5)  # fmt: skip
    assert not ages.any()
    if dtype is not torch.float64:
        assert torch.equal(mixed, attention(*qkv, 0.3))


def test_some_rows_are_normed_as_all_of_them_and_put_back() -> None:
    x, places = drawn(2, 16, 40), torch.tensor([[1, 5, 15], [0, 2, 3]])
    norm, h = torch.nn.LayerNorm(40), torch.zeros(2, 16, 40)
    whole = norm_input(norm, None, None, h)
    some = h.view(-1)[: 6 * 40].view(2, 3, 40)
    norm_some(x, places, whole, some)
    picked = places.unsqueeze(-1).expand(-1, -1, 40)
    torch.testing.assert_close(some, norm(x).gather(1, picked))
    out = torch.zeros(2, 16, 40)
    put_back(some, out, places)
    assert torch.equal(out, torch.zeros_like(out).scatter(1, picked, some))
