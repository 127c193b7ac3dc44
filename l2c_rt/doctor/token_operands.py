"""Random arguments for the kernels that score and choose tokens."""

from __future__ import annotations

import math

import torch

from l2c_rt.doctor.kernel_operands import Arguments, Operands
from l2c_rt.kernels.operands import Refreshes


class TokenOperands(Operands):
    """Those of all kernels: a method `_<op>` per operation."""

    def refreshes(self) -> Refreshes:
        return Refreshes(5 + self.integers(4, 9).view(3, 3), self.counter, 2)

    def _attention_logs(self) -> Arguments:
        return self._attention()

    def _attention_received(self) -> Arguments:
        shape = (self.s.batch, self.s.heads, self.s.tokens)
        # About what the softmax of random scores is divided by.
        logs = 3 + self.normal(*shape, dtype=torch.float32).abs()
        return {"qkv": self._attention()["qkv"], "logs": logs}

    def _unit_scores(self) -> Arguments:
        parts = self.normal(self.s.batch, self.s.heads, self.s.tokens, dtype=torch.float32)
        return {"parts": parts, "refreshes": self.refreshes()}

    def _choose_tokens(self) -> Arguments:
        shape = (self.s.batch, self.s.tokens)
        scores = self.normal(*shape, dtype=torch.float32)
        stamps = self.integers(5, self.s.batch * self.s.tokens).view(shape)
        side = math.isqrt(self.s.tokens) // 2 * 2
        choice = {"count": min(self.s.count + 1, self.s.tokens), "bonus": 0.6, "side": side}
        return {"scores": scores, "stamps": stamps, "refreshes": self.refreshes(),
                "age_factor": 0.25, **choice}  # fmt: skip
