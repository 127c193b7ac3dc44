"""The norms and gates of a model's branches, with their addresses: made once and used at every
evaluation, since on a small model this takes as long as the arithmetic."""

from __future__ import annotations

from torch import Tensor, nn

from l2c_rt.adapters.bound_model import FusableBranch, FusableModel
from l2c_rt.backends.cpu.rows import NormInput, Vector, norm_input, vector


class BranchInputs:
    """Those of one workspace, for as long as the tensors that they are in stay the same."""

    def __init__(self, fusable: FusableModel) -> None:
        self._branches = fusable.branches
        self.forget()

    def forget(self) -> None:
        """A run begins, and layers may have other weights."""
        self._rows: Tensor | None = None
        self._h: Tensor | None = None
        self._norms: dict[str, NormInput] = {}
        self._gates: dict[str, Vector | None] = {}

    def use(self, rows: Tensor) -> None:
        """The modulation from now on, [B, 6 * blocks + 2, D]."""
        if rows is not self._rows:
            self.forget()
            self._rows = rows

    def norm(self, name: str, h: Tensor) -> NormInput:
        """The norm before a branch, into `h`."""
        if h is not self._h:
            self._norms, self._h = {}, h
        if name not in self._norms:
            self._norms[name] = self.new_norm(name, h)
        return self._norms[name]

    def new_norm(self, name: str, h: Tensor) -> NormInput:
        """The norm before a branch for rows that are only used once."""
        branch = self._branches[name]
        return norm_input(branch.norm, self._vector(branch, 0), self._vector(branch, 1), h)

    def gate(self, name: str) -> Vector | None:
        """The gate of a branch, [B, 1, D], where it has one."""
        if name not in self._gates:
            self._gates[name] = self._vector(self._branches[name], 2)
        return self._gates[name]

    def final_norm(self, norm: nn.LayerNorm, h: Tensor) -> NormInput:
        """The norm after the last branch, whose shift and scale are the last two rows."""
        assert self._rows is not None
        shift, scale = (vector(self._rows[:, k].unsqueeze(1)) for k in (-2, -1))
        return norm_input(norm, shift, scale, h)

    def _vector(self, branch: FusableBranch, number: int) -> Vector | None:
        """Shift, scale or gate of a branch, [B, 1, D], where it has them."""
        if branch.first is None:
            return None
        assert self._rows is not None
        return vector(self._rows[:, 6 * branch.block + branch.first + number].unsqueeze(1))
