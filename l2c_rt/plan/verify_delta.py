"""The proof of the delta form: every difference is to one base, which added the same values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from l2c_rt.plan.delta_ops import (
    FromDelta,
    KeepAt,
    LinearParts,
    ToDelta,
    Unchanged,
    place_name,
)
from l2c_rt.plan.ops import (
    Compute,
    Op,
    Plan,
    PlanError,
    Predict,
    Reuse,
    ReuseRun,
    RunFixed,
    StepPlan,
    op_nodes,
)
from l2c_rt.plan.program import BlockProgram
from l2c_rt.plan.stream_ops import PassedOver

ON_DELTAS = frozenset({ToDelta, FromDelta, Unchanged, LinearParts})
ON_STREAMS = frozenset({RunFixed, Compute, Reuse, Predict, ReuseRun})
COMMUTING = (Unchanged, LinearParts)


def in_node_order(step: StepPlan, program: BlockProgram) -> Sequence[Op | PassedOver]:
    """The ops of a step with those that commute put in the order of the program's nodes.

    To leave a delta as it is commutes with everything; each long skip is a `PassedOver`.
    """
    if LinearParts not in map(type, step):
        return step
    number = {node.name: i for i, node in enumerate(program.nodes)}
    ops: list[Op | PassedOver] = []
    for commute, group in groupby(step, key=lambda op: isinstance(op, COMMUTING)):
        if not commute:
            ops += group
            continue
        apart = [(name, op if isinstance(op, Unchanged) else PassedOver(name))
                 for op in group for name in op_nodes(op)]  # fmt: skip
        ops += [op for _, op in sorted(apart, key=lambda pair: number.get(pair[0], -1))]
    return ops


def check_delta(plan: Plan, program: BlockProgram) -> None:
    """Prove that each evaluation in the delta form is one of the ordinary form, written as its
    difference to an earlier one, of which all that it reads was kept, and which added the same
    value of every branch that it leaves unchanged.

    Raises PlanError naming evaluation, op and slot.
    """
    kinds = [frozenset(map(type, step)) for step in plan.steps]
    first_at = {i: s for s, i in reversed(tuple(enumerate(plan.order)))}
    steps = {
        i: _Step(plan, program, s).of(plan.steps[i])
        for i, s in first_at.items() if kinds[i] & (ON_DELTAS | {KeepAt})
    }  # fmt: skip
    if not steps:
        return
    run = _Run()
    for s, i in enumerate(plan.order):
        if i in steps:
            run.check_reads(steps[i], s)
        run.add(plan.steps[i], steps.get(i), s)


@dataclass
class _Facts:
    """What a step keeps and reads of streams, and the branches it leaves unchanged."""

    kept: list[int] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)


class _Run:
    """Which evaluation made the present value of each branch, and which kept each stream."""

    def __init__(self) -> None:
        self._made: dict[str, int] = {}
        self._kept_at: dict[int, int] = {}
        self._made_until: dict[int, dict[str, int]] = {}

    def add(self, step: StepPlan, facts: _Facts | None, s: int) -> None:
        for op in step:
            if isinstance(op, Compute | Predict):
                self._made[op.branch] = s
            elif isinstance(op, ReuseRun):
                self._made.update((o.branch, s) for o in op.items if isinstance(o, Predict))
        if facts is not None and facts.kept:
            self._kept_at.update(dict.fromkeys(facts.kept, s))
            self._made_until[s] = dict(self._made)

    def check_reads(self, facts: _Facts, s: int) -> None:
        base = None
        for slot in facts.read:
            if slot not in self._kept_at:
                raise PlanError(f"evaluation {s} reads slot {slot}, where nothing was kept")
            if base is not None and self._kept_at[slot] != base:
                raise PlanError(
                    f"evaluation {s} reads slot {slot} of evaluation {self._kept_at[slot]}, and "
                    f"others of evaluation {base}"
                )
            base = self._kept_at[slot]
        for branch in facts.unchanged:
            # A branch is unchanged in the delta form only, which begins with a read.
            assert base is not None
            added, latest = self._made_until[base].get(branch), self._made.get(branch)
            if added is None or added != latest:
                raise PlanError(
                    f"evaluation {s} takes {branch} for unchanged since evaluation {base}, which "
                    f"added the output of evaluation {added}, but the latest is that of {latest}"
                )


class _Step:
    """One distinct step: at which place, in which form, and who has kept which delta."""

    def __init__(self, plan: Plan, program: BlockProgram, s: int) -> None:
        self._plan, self._program, self._s = plan, program, s
        self._number = {node.name: i for i, node in enumerate(program.nodes)}
        self._roles = {name: node.role for name, node in program.fixed_of.items()}
        self._facts = _Facts()
        self._delta = False
        self._place = self._last_linear = -1
        self._here: str | None = None
        self._saved: list[str] = []

    def of(self, step: StepPlan) -> _Facts:
        in_delta_form = bool(ON_DELTAS & set(map(type, step)))
        before: Op | None = None
        for op in step:
            if type(op) not in ON_STREAMS | ON_DELTAS | {KeepAt}:
                self._refuse(op, "which has no meaning where streams are kept for differences")
            if isinstance(op, KeepAt):
                self._keep(op, before, in_delta_form)
            elif isinstance(op, ToDelta | FromDelta):
                self._change(op)
            elif isinstance(op, Unchanged | LinearParts):
                self._on_delta(op)
            elif in_delta_form and isinstance(op, RunFixed):
                self._fixed(op)
            elif self._delta:
                self._refuse(op, "which needs the stream, of which only the difference is here")
            else:
                self._here = None
            self._place = max([self._place, *map(self._number.__getitem__, self._moving(op))])
            before = op
        if self._delta:
            self._refuse(step[-1], "after which only a difference is left")
        return self._facts

    def _keep(self, op: KeepAt, before: Op | None, in_delta_form: bool) -> None:
        if in_delta_form:
            self._refuse(op, "in the delta form, which is nobody's base")
        self._check_place(op)
        if before is None or op_nodes(before)[-1:] != (self._program.nodes[self._place].name,):
            self._refuse(op, f"which does not follow its place: {before} does")
        self._facts.kept.append(op.slot)

    def _change(self, op: ToDelta | FromDelta) -> None:
        if self._delta != isinstance(op, FromDelta):
            self._refuse(op, f"where {'only the difference' if self._delta else 'the stream'} is")
        self._check_place(op)
        self._delta, self._here = not self._delta, None
        self._facts.read.append(op.slot)

    def _on_delta(self, op: Unchanged | LinearParts) -> None:
        if not self._delta:
            self._refuse(op, "where the stream is, and no difference")
        if isinstance(op, LinearParts):
            self._linears(op)
        elif self._program.branch_of[op.branch].gated:
            self._refuse(op, "whose gate is another at every evaluation")
        else:
            self._facts.unchanged.append(op.branch)

    def _linears(self, op: LinearParts) -> None:
        places = [self._last_linear, *(self._number[node] for node in op.nodes)]
        if len(op.skips) != len(op.nodes) or not all(a < b for a, b in pairwise(places)):
            self._refuse(op, "whose long skips are out of order, or not one for each node")
        self._last_linear = places[-1]
        if op.source != self._here:
            self._refuse(op, f"but the difference here was kept by {self._here}")
        for node, skip in zip(op.nodes, op.skips, strict=True):
            kept = self._saved.pop() if self._saved else None
            if self._roles.get(node) != "skip_linear" or kept != skip:
                self._refuse(op, f"but {node} takes what {kept} kept, if it is a long skip")
        self._here = None

    def _fixed(self, op: RunFixed) -> None:
        saves = self._roles[op.node] == "skip_save"
        if self._delta != saves or self._roles[op.node] == "skip_linear":
            self._refuse(op, f"where {'the difference' if self._delta else 'the stream'} is")
        if saves:
            self._here = self._here or op.node
            self._saved.append(self._here)
        else:
            self._here = None

    def _moving(self, op: Op) -> Iterator[str]:
        """The nodes of an op that change the stream."""
        return (name for name in op_nodes(op) if self._roles.get(name) != "skip_save")

    def _check_place(self, op: KeepAt | ToDelta | FromDelta) -> None:
        slots, nodes = self._plan.slots, self._program.nodes
        owner = slots[op.slot] if 0 <= op.slot < len(slots) else "nobody"
        if self._place < 0 or owner != place_name(nodes[self._place].name):
            self._refuse(op, f"whose slot belongs to {owner}")

    def _refuse(self, op: Op, why: str) -> None:
        raise PlanError(f"evaluation {self._s}: {op}, {why}")
