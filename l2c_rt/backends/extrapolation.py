"""Predictions along the modes that kept values of a run have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l2c_rt.plan.mode_fit import ModeFit

LEAST_SHARE = 1e-4
"""Of the greatest singular value: what is below is noise, where no rank is given."""

CHUNK = 1 << 16
"""Elements of a value that are gone through at once, in float64."""


def extrapolated(values: Sequence[Any], fit: ModeFit) -> Any:
    """The next value of a linear recursion that the values follow, by sample of the batch.

    Dynamic mode decomposition: y_(t+1) = A y_t over the snapshots, A of least rank, and
    y_(t+h) = A^h y_t by its eigenvalues.  It is a sum of the snapshots, whose coefficients are of
    matrices of as many rows as there are snapshots.  The newest value where that is not finite.
    Shapes: values all alike, [B, ...], and the result.
    Waits for the device.
    """
    kept = [values[i] for i in fit.values]
    newest = kept[-1]
    if not (isinstance(newest, Tensor) and newest.dtype.is_floating_point):
        return newest
    samples = newest.shape[0] if newest.dim() > 1 else 1
    flat = [value.reshape(samples, -1) for value in kept]
    rows = [_coefficients(_triangle([value[b] for value in flat]), fit) for b in range(samples)]
    if not all(row is not None for row in rows):
        return newest.clone()
    table = torch.stack([row for row in rows if row is not None]).to(newest.device)
    total = torch.zeros_like(flat[0], dtype=torch.float64)
    for i, value in enumerate(flat):
        total.addcmul_(value.to(torch.float64), table[:, i : i + 1])
    out = total.to(newest.dtype).reshape(newest.shape)
    return out if bool(torch.isfinite(out).all()) else newest.clone()


def _triangle(columns: Sequence[Tensor]) -> Tensor:
    """R [n, n] of the matrix of these columns, without its Q, in float64 on the host."""
    triangle = torch.empty(0, len(columns), dtype=torch.float64, device=columns[0].device)
    for start in range(0, columns[0].numel(), CHUNK):
        part = torch.stack([c[start : start + CHUNK].to(torch.float64) for c in columns], dim=1)
        triangle = torch.linalg.qr(torch.cat([triangle, part]), mode="r").R
    return triangle.cpu()


def _coefficients(r: Tensor, fit: ModeFit) -> Tensor | None:
    """Those of the columns that R is of; None for columns that have no modes."""
    before, after = r[:, :-1], r[:, 1:]
    if not bool(torch.isfinite(r).all()):
        return None
    u, s, vh = torch.linalg.svd(before, full_matrices=False)
    rank = fit.rank or int((s > s[0] * LEAST_SHARE).sum())
    rank = max(1, min(rank, s.numel()))
    inverse = (1 / (s[:rank] + fit.ridge)).to(torch.complex128)
    v = vh[:rank].mH.to(torch.complex128)
    advance = (u[:, :rank].mH @ after).to(torch.complex128) @ v * inverse
    try:
        eigenvalues, vectors = torch.linalg.eig(advance)
        weights = v * inverse @ vectors
        modes = after.to(torch.complex128) @ weights
        now = torch.linalg.lstsq(modes, r[:, -1:].to(torch.complex128)).solution[:, 0]
    except RuntimeError:
        return None
    of_later = (weights @ (eigenvalues.pow(fit.horizon) * now)).real
    return torch.cat([torch.zeros(1, dtype=torch.float64), of_later])
