"""A branch as its linears, each by the product that `Products` chose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from l2c_rt.adapters.bound_model import FusableAttention, FusableBranch, FusableMlp, FusableModel
from l2c_rt.backends.cpu.attention import Attention
from l2c_rt.backends.cpu.products import Products, unmeasured
from l2c_rt.backends.token_choice import fresh_state, value_norm_scores


class Product(Protocol):
    """`Products`, or what stands in for it."""

    def __call__(
        self, x: Tensor, module: nn.Linear, gelu: str | None = None, out: Tensor | None = None
    ) -> Tensor: ...


def run_branch(
    inner: FusableAttention | FusableMlp,
    h: Tensor,
    product: Product,
    attention: Attention,
    out: Tensor | None,
) -> Tensor:
    """A branch's output, in `out` or a tensor of its own.  Shapes: h, result [B, T, D]."""
    if isinstance(inner, FusableMlp):
        return product(product(h, inner.fc1, inner.gelu), inner.fc2, None, out)
    return product(attention(*_heads(inner, h, product), inner.scale), inner.proj, None, out)


def run_scored(
    inner: FusableAttention,
    h: Tensor,
    product: Product,
    attention: Attention,
    score: str,
    out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The same of an attention branch, and the scores and ages of its tokens, float32 [2, B, T].

    `score` is one of `SCORES`; those that are not of attention are made when they are read.
    """
    q, k, v = _heads(inner, h, product)
    if score == "attention":
        mixed, fresh = attention.with_scores(q, k, v, inner.scale)
    else:
        mixed = attention(q, k, v, inner.scale)
        by_value = score == "kv-norm"
        fresh = fresh_state(value_norm_scores(v.transpose(1, 2)) if by_value else _zeros(h))
    return product(mixed, inner.proj, None, out), fresh


def _zeros(h: Tensor) -> Tensor:
    return h.new_zeros(h.shape[:2], dtype=torch.float32)


def _heads(inner: FusableAttention, h: Tensor, product: Product) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, [B, T, H, F]."""
    b, t, _ = h.shape
    if len(inner.inputs) == 1:
        q, k, v = product(h, inner.inputs[0]).view(b, t, 3, inner.heads, -1).unbind(2)
    else:
        q, k, v = (product(h, linear).view(b, t, inner.heads, -1) for linear in inner.inputs)
    return q, k, v


def linears_of(model: nn.Module, fusable: FusableModel) -> Iterator[tuple[str, nn.Linear]]:
    """The linears that products are taken of, by their paths in the model."""
    ours = {part for branch in fusable.branches.values() for part in branch.module.modules()}
    if fusable.outer is not None:
        ours |= set(fusable.outer.skip_linears.values())
    for path, module in model.named_modules():
        if module in ours and isinstance(module, nn.Linear):
            yield path, module


def custom_forward(fusable: FusableModel) -> str:
    """Why some branch is more than its linears, or nothing: tried once per class of module.

    A class of somebody else's may have our names and another forward.
    """
    tried: set[type] = set()
    for name, branch in fusable.branches.items():
        kind = type(branch.module)
        if kind in tried:
            continue
        tried.add(kind)
        weight = branch.norm.weight if branch.norm.weight is not None else _last(branch).weight
        width = branch.norm.normalized_shape[0]
        plain = torch.autocast(weight.device.type, enabled=False)
        # Made inside: a tensor of the user's inference mode is not written to outside of it.
        with torch.inference_mode(False), torch.no_grad(), plain:
            rows = torch.arange(4 * width, dtype=torch.float32, device=weight.device)
            h = torch.sin(rows).view(1, 4, width).to(weight.dtype)
            products, attention = Products(unmeasured()), Attention(unmeasured())
            out = run_branch(branch.inner, h.clone(), products, attention, None)
            expected = branch.module(h)
        close = 1e-4 if weight.dtype in (torch.float32, torch.float64) else 3e-2
        if not torch.allclose(out, expected, rtol=close, atol=close):
            return f"{name}: {kind.__name__} computes something else than its linears do"
    return ""


def _last(branch: FusableBranch) -> nn.Linear:
    return branch.inner.proj if isinstance(branch.inner, FusableAttention) else branch.inner.fc2
