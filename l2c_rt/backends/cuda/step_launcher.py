"""Runs the launches of a lowered step on static buffers: once to warm, once to capture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from l2c_rt.adapters.bound_model import FusableAttention, FusableBranch, FusableModel, OuterLayers
from l2c_rt.backends.cuda.branch_launcher import BranchLauncher
from l2c_rt.backends.cuda.buffers import Buffers
from l2c_rt.backends.cuda.composed_skips import ComposedSkips
from l2c_rt.backends.cuda.modulation_table import Tables, chunk_of
from l2c_rt.backends.cuda.prediction_table import PredictionTable
from l2c_rt.backends.cuda.skip_linears import SkipLinears
from l2c_rt.backends.cuda.term_lists import TermLists
from l2c_rt.backends.cuda.token_launcher import TokenLauncher
from l2c_rt.backends.cuda.weight_copies import WeightCopies
from l2c_rt.kernels.operands import Reuses
from l2c_rt.plan.lowering import (
    Composed,
    Embed,
    Final,
    LoweredStep,
    Mix,
    Run,
    RunTokens,
    Score,
    SkipLinear,
    Sum,
    Term,
    Terms,
)

Finish = Callable[[Final, Reuses], None]


class StepLauncher:
    """The part of an evaluation that calls and whole runs share; `finish` runs its end."""

    def __init__(
        self,
        fusable: FusableModel,
        buffers: Buffers,
        tables: Tables,
        weights: WeightCopies,
        branches: BranchLauncher,
        skips: SkipLinears,
        composed: ComposedSkips,
        kernels: Any,
        predictions: PredictionTable | None,
        tokens: TokenLauncher | None,
    ) -> None:
        assert fusable.outer is not None
        self._predictions, self._tokens = predictions, tokens
        self.lists = TermLists(fusable, buffers, tables.steps, predictions)
        self._fusable, self._outer = fusable, fusable.outer
        self.buffers, self.tables, self.weights = buffers, tables, weights
        self._branches, self._skips, self._composed = branches, skips, composed
        self._kernels = kernels
        self._gated = fusable.modulation is not None

    def run(self, step: LoweredStep, finish: Finish) -> None:
        """Launch everything of a step."""
        self._branches.begin()
        for launch in step:
            if isinstance(launch, Run):
                self._branches.run(launch.branch, launch.slot)
            elif isinstance(launch, Sum):
                self._sum(launch)
            elif isinstance(launch, Score | RunTokens):
                assert self._tokens is not None
                self._tokens.run(launch)
            elif isinstance(launch, Mix):
                self._mix(launch)
            elif isinstance(launch, Embed):
                self._embed(launch)
            elif isinstance(launch, SkipLinear):
                self._branches.settle()
                self._skips.run(launch)
            elif isinstance(launch, Composed):
                self._branches.settle()
                self._composed.run(launch)
            else:
                assert isinstance(launch, Final)
                self._branches.settle()
                finish(launch, self.lists.of(launch.terms))

    def prepare(self, step: LoweredStep) -> None:
        """Put a step's lists of slots and gates on the device, which a capture cannot do."""
        for launch in step:
            if isinstance(launch, Sum | Final):
                self.lists.of(launch.terms)
            elif isinstance(launch, Mix):
                self.lists.mixed(launch)

    def _mix(self, launch: Mix) -> None:
        operand = None
        if launch.has_operand:
            assert self._predictions is not None
            operand = self._predictions.operand(launch.at)
        out = self.buffers.memory.slots[launch.store]
        self._kernels.mix(self.lists.mixed(launch), out, operand)

    def _chunk(self, branch: str, number: int) -> int:
        return chunk_of(self._fusable.branches[branch], number)

    def _sum(self, launch: Sum) -> None:
        part = None if launch.branch is None else self._fusable.branches[launch.branch]
        source = self.buffers.stream(launch.source)
        target = self.buffers.stream(launch.target)
        one = self._branches.partial_sums_of(launch.terms) if part is not None else None
        if one is None:
            self._branches.settle()
        if part is None:
            self._add(source, launch.terms, target)
        elif self._gated:
            self._add_norm_modulate(source, launch, part, target, one)
        else:
            self._add_norm(source, launch, part, target, one)

    def _add(self, source: Tensor, terms: Terms, target: Tensor) -> None:
        reuses = self.lists.of(terms)
        if self._gated:
            self._kernels.reuse_sum(source, reuses, self.tables.modulation, out=target)
        else:
            self._kernels.ungated_reuse_sum(source, reuses, out=target)

    def _add_norm_modulate(
        self,
        source: Tensor,
        launch: Sum,
        part: FusableBranch,
        target: Tensor,
        partial_sums: Tensor | None,
    ) -> None:
        assert launch.branch is not None
        k, modulation, h = self._kernels, self.tables.modulation, self._branches.input
        shift, scale = self._chunk(launch.branch, 0), self._chunk(launch.branch, 1)
        norm = (shift, scale, part.norm.eps)
        if not launch.terms and target is source:
            k.norm_modulate(source, modulation, *norm, out=h)
            return
        if not _is_plain(launch.terms):
            k.reuse_run(source, self.lists.of(launch.terms), modulation, *norm, out=(target, h))
            return
        (term,) = launch.terms
        assert isinstance(term, Term)
        y, partial_sums, places = self._branches.output_of(term.slot, partial_sums)
        end = (y, modulation, self._chunk(term.branch, 2), *norm)
        out = {"out": (target, h), "places": places}
        if partial_sums is None:
            k.gate_residual_norm_modulate(source, *end, **out)
        else:
            k.split_gate_residual_norm_modulate(source, partial_sums, *end, **out)

    def _add_norm(
        self,
        source: Tensor,
        launch: Sum,
        part: FusableBranch,
        target: Tensor,
        partial_sums: Tensor | None,
    ) -> None:
        k, h = self._kernels, self._branches.input
        norm = (part.norm.weight.detach(), part.norm.bias.detach(), part.norm.eps)
        if not launch.terms and target is source:
            k.norm(source, *norm, out=h)
            return
        if not _is_plain(launch.terms):
            k.reuse_run_norm(source, self.lists.of(launch.terms), *norm, out=(target, h))
            return
        slot = launch.terms[0].slot
        y, partial_sums, places = self._branches.output_of(slot, partial_sums)
        end, out = (y, *norm), {"out": (target, h), "places": places}
        if partial_sums is None:
            k.residual_norm(source, *end, **out)
        else:
            k.split_residual_norm(source, partial_sums, *end, **out)

    def _embed(self, launch: Embed) -> None:
        k, buffers, tables = self._kernels, self.buffers, self.tables
        latents, embedding = buffers.latents, self.weights.embedding
        x, batch = buffers.stream(launch.target), buffers.shape.batch
        prefix = None if self._gated or not self._outer.prefix_tokens else tables.modulation
        if launch.branch is None:
            k.patch_embed(latents, embedding, batch, prefix, out=x)
            return
        norm, out = self._fusable.branches[launch.branch].norm, (x, buffers.h)
        if self._gated:
            chunks = self._chunk(launch.branch, 0), self._chunk(launch.branch, 1)
            k.patch_embed_norm_modulate(
                latents, embedding, batch, tables.modulation, *chunks, norm.eps, out=out
            )
            self._branches.take_embedded()
            return
        affine = norm.weight.detach(), norm.bias.detach()
        k.patch_embed_norm(latents, embedding, batch, *affine, prefix, norm.eps, out=out)
        self._branches.take_embedded()


def why_not_launched(fusable: FusableModel, outer: OuterLayers) -> str:
    """Why the kernels cannot run this model; empty where they can."""
    gated = fusable.modulation is not None
    if outer.norm.normalized_shape[0] % 8:
        return f"width {outer.norm.normalized_shape[0]} is not a multiple of 8"
    for name, part in fusable.branches.items():
        affine = part.norm.weight is not None and part.norm.bias is not None
        plain = part.norm.weight is None and part.norm.bias is None
        if not (plain if gated else affine):
            kind = "without weights" if gated else "with weight and bias"
            return f"{name}: wanted a norm {kind}, got {part.norm}"
        inner = part.inner
        if isinstance(inner, FusableAttention):
            biased = {linear.bias is not None for linear in inner.inputs}
            if len(biased) > 1:
                return f"{name}: some of q, k, v have a bias and some have none"
    return ""


def _is_plain(terms: Terms) -> bool:
    """Whether there is one term, as it is in its slot."""
    if len(terms) != 1:
        return False
    (term,) = terms
    return term.at is None if isinstance(term, Term) else term.sign == 1
