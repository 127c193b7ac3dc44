"""Self-attention on a CPU, by the faster of PyTorch's and the extension's.

The extension's is on float32 or bfloat16, without a mask; like PyTorch's it reads q, k and v where
the products left them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_rt._C import attention as native_attention
from l2c_rt._C import attention_parts, score_tokens
from l2c_rt.backends.token_choice import attention_scores, fresh_state
from l2c_rt.backends.tuning.chooser import Chooser
from l2c_rt.backends.tuning.problems import AttentionConfig, AttentionProblem

SDPA, NATIVE = AttentionConfig("sdpa"), AttentionConfig("native")
WAYS = {"sdpa": SDPA, "native": NATIVE}
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""How far the extension's result may be from PyTorch's, as |difference| / |result|."""


class Attention:
    """softmax(scale q k^T) v for all heads; `way` forces one of `WAYS`."""

    def __init__(self, chooser: Chooser, way: str | None = None) -> None:
        if way not in (None, *WAYS):
            raise ValueError(f"way: got {way!r}, wanted one of {', '.join(WAYS)} or None")
        self._chooser, self._way = chooser, way
        self._choices: dict[tuple[torch.Size, tuple[int, ...], torch.dtype], AttentionConfig] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Shapes: q, k, v [B, T, H, F], of any strides; result [B, T, H F], contiguous."""
        key = (q.shape, q.stride(), q.dtype)
        choice = self._choices.get(key)
        if choice is None:
            choice = self._choices[key] = self._choose(q, k, v, scale)
        return _attend(choice, q, k, v, scale)

    def with_scores(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """The same, and the tokens' state: by the attention that each gets, `attention_scores` and
        ages of 0, float32 [2, B, T]."""
        if _is_native(q, k, v):
            b, t, heads, _ = q.shape
            parts = q.new_empty(b, heads * attention_parts(t), t, dtype=torch.float32)
            mixed = _native(q, k, v, scale, parts)
            # By operators of PyTorch's this takes longer than the attention does for its sums.
            fresh = parts.new_zeros(2, b, t)
            score_tokens(parts.data_ptr(), fresh.data_ptr(), (b, parts.shape[1], t))
            return mixed, fresh
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        weights = torch.softmax(q @ k.transpose(-2, -1) * scale, dim=-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        return mixed, fresh_state(attention_scores(weights))

    def _choose(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> AttentionConfig:
        if not _is_native(q, k, v):
            return SDPA
        if self._way is not None:
            return WAYS[self._way]
        b, t, heads, head = q.shape
        problem = AttentionProblem(b, t, heads, head, str(q.dtype).removeprefix("torch."))

        def check(choice: AttentionConfig) -> bool:
            got, expected = (_attend(way, q, k, v, scale) for way in (choice, SDPA))
            difference = (got.float() - expected.float()).norm()
            return bool(difference <= CLOSE[q.dtype] * expected.float().norm())

        def make(choice: AttentionConfig) -> Callable[[], None]:
            return partial(_discard, choice, q, k, v, scale)

        return self._chooser.choose(problem, (SDPA, NATIVE), make, check)


def _is_native(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the extension's attention takes these."""
    strided = q.stride() == k.stride() == v.stride() and q.stride(3) == 1
    return q.dtype in CLOSE and strided and q.numel() > 0 and q.is_cpu


def _attend(choice: AttentionConfig, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    b, t, heads, head = q.shape
    if choice is SDPA:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return mixed.transpose(1, 2).reshape(b, t, heads * head)
    return _native(q, k, v, scale)


def _native(
    q: Tensor, k: Tensor, v: Tensor, scale: float, received: Tensor | None = None
) -> Tensor:
    b, t, heads, head = q.shape
    out = q.new_empty(b, t, heads * head)
    batch_stride, token_stride, head_stride, _ = q.stride()
    native_attention(
        (q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr()),
        0 if received is None else received.data_ptr(),
        (b, t, heads, head),
        (batch_stride, token_stride, head_stride),
        scale,
        q.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
    return out


def _discard(choice: AttentionConfig, q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
    _attend(choice, q, k, v, scale)
