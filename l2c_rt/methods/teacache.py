"""TeaCache: the timestep-modulated input of the first block tells whether blocks are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from l2c_rt.methods.checks import check_bool, check_number, numbers_of
from l2c_rt.methods.deciding import Deciding
from l2c_rt.methods.teacache_tables import (
    COEFFICIENTS,
    FAMILIES,
    RETENTION_COEFFICIENTS,
    RETENTION_PATHS,
    Family,
)
from l2c_rt.plan.decisions import At, Cut, Decided, Look, ModelFacts

ATTENTION = ("attn", "attn1", "self_attn", "attention")


@dataclass(frozen=True, slots=True)
class TeaCache(Deciding):
    """Skips all blocks until the estimated change of the output adds up to `threshold`.

    The estimate is poly(mean |m - m'| / mean |m'|) over the batch, m being an indicator, m' that of
    the call before; the sum begins anew at every computed evaluation.  The first and the last
    evaluation are computed.
    `coefficients` of the polynomial, highest power first: a name of `COEFFICIENTS`, numbers, or
    None for those of the model's class.  `indicator` is the path of the module whose input is
    looked at; None is what the published adapter of the class does, elsewhere the attention of the
    first block.  With `use_ret_steps` (published for Wan 2.1) the first five evaluations are
    computed, and the last one need not be.
    Kept: what all blocks add, per stream, and m'.  Needs: a polynomial fitted to the model.
    Source: arXiv 2411.19108; github ali-vilab/TeaCache.
    """

    threshold: float
    coefficients: str | Sequence[float] | None = None
    use_ret_steps: bool = False
    indicator: str | None = None

    def __post_init__(self) -> None:
        check_number("TeaCache: threshold", self.threshold, 0)
        check_bool("TeaCache: use_ret_steps", self.use_ret_steps)
        if not isinstance(self.indicator, str | None):
            raise TypeError(
                f"TeaCache: indicator is {self.indicator!r:.40}, wanted a module's path or None"
            )
        if isinstance(self.coefficients, str):
            names = RETENTION_COEFFICIENTS if self.use_ret_steps else COEFFICIENTS
            if self.coefficients not in names:
                raise ValueError(
                    f"TeaCache: coefficients: got {self.coefficients!r:.60}, wanted numbers or one "
                    f"of {', '.join(names)}"
                )
        elif self.coefficients is not None:
            coefficients = numbers_of("TeaCache: coefficients", self.coefficients)
            object.__setattr__(self, "coefficients", coefficients)

    def for_model(self, facts: ModelFacts) -> TeaCache:
        if isinstance(self.coefficients, tuple):
            return self
        table = RETENTION_COEFFICIENTS if self.use_ret_steps else COEFFICIENTS
        if isinstance(self.coefficients, str):
            return replace(self, coefficients=table[self.coefficients])
        names = [name for name in FAMILIES.get(facts.kind, Family()).names if name in table]
        if len(names) != 1:
            published = f"{', '.join(names) or 'none'} published for {facts.kind}"
            raise ValueError(
                f"TeaCache: coefficients: {published}; give a name, or numbers fitted to the "
                "model: TeaCache(threshold, coefficients=...); some are published for "
                f"{', '.join(FAMILIES)}"
            )
        return replace(self, coefficients=table[names[0]])

    def sites(self, model: object) -> tuple[str, ...] | None:
        """The blocks that the published adapter of the class skips; None for all of them."""
        return FAMILIES.get(type(model).__name__, Family()).sites or None

    def cut(self, facts: ModelFacts) -> Cut:
        family = FAMILIES.get(facts.kind, Family())
        if self.indicator is not None:
            return Cut(Look("input", self.indicator, when_forced=True), family.exit)
        path = RETENTION_PATHS.get(facts.kind, "") if self.use_ret_steps else ""
        if path or family.path:
            return Cut(Look(family.side, path or family.path, when_forced=True), family.exit)
        block = facts.blocks[0]
        for name in ATTENTION:
            if f"{block}.{name}" in facts.modules:
                return Cut(Look("input", f"{block}.{name}", when_forced=True), family.exit)
        raise ValueError(
            f"TeaCache: {block} of {facts.kind} has none of {', '.join(ATTENTION)}; name the "
            "module whose input is looked at: indicator=..."
        )

    def begin(self) -> float:
        """The sum of the estimates."""
        return 0.0

    def forced(self, state: float, at: At) -> Decided | None:
        first = 5 if self.use_ret_steps else 1
        is_last = at.step == at.steps - 1 and not self.use_ret_steps
        return Decided(0) if at.step < first or is_last else None

    def choose(self, state: float, at: At, metric: float) -> int:
        return int(self._sum(state, metric) < self.threshold)

    def after(self, state: float, at: At, done: Decided) -> float:
        return 0.0 if done.row == 0 else self._sum(state, done.metric)

    def _sum(self, state: float, metric: float) -> float:
        assert isinstance(self.coefficients, tuple)
        estimate = 0.0
        for coefficient in self.coefficients:
            estimate = estimate * metric + coefficient
        return state + estimate
