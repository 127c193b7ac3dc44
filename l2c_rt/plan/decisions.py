"""What a method that decides at run time declares: where it looks, its rows, its decision.  Pure.

A method looks at one tensor per evaluation, of which a backend makes one number, the metric; the
method chooses among its rows by it.  States are immutable: the runtime holds one per call of a step
and begins anew with every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from l2c_rt.plan.dynamic import Rows
from l2c_rt.plan.mode_fit import ModeFit
from l2c_rt.plan.spectrum import Spectrum
from l2c_rt.schedule.cache_schedule import CacheSchedule

NAN = float("nan")


class Decided(NamedTuple):
    """What was done at one evaluation; the metric is NaN where none was read."""

    row: int
    metric: float = NAN


class At(NamedTuple):
    """An evaluation, and which of the step's calls it is of how many.

    `first_call` is what the step's first call decided, for the others; `call_before` what the call
    before this one did, of a loop of several calls per step.  Where a forward has several decisions
    both are of the same one, `place` is which one it is of those that share its state, and
    `first_metrics` are the metrics of the step's first call at all of these.
    """

    step: int
    steps: int
    first_call: Decided | None = None
    call: int = 0
    calls: int = 1
    call_before: Decided | None = None
    place: int = 0
    first_metrics: tuple[float, ...] = ()


Measure = Literal[
    "relative L1", "output change", "filtered", "elementwise L1", "elementwise L2", "cosine",
    "absolute L1", "absolute L2",
]  # fmt: skip
"""How a metric is made of what is observed."""


@dataclass(frozen=True, slots=True)
class Look:
    """The tensor that a method observes, and what it is compared with.

    "input" and "output" are those of the module at `path` (its first tensor, or tensor `index` of
    its output); "added" is what the blocks from `start`, or the first one, up to `path` add to the
    image stream, "entering" that stream before the block at `path`; "call" is the
    model's own input.  At row 2 of a method that looks at what is "checked", the block at `path` is
    also run on the input that it has, and what it gives is compared with what stands for it; the
    metric is known to the next evaluation.  Else it is compared with that of the evaluation before,
    or of the last one that was computed; with `when_forced` also where the method does not ask, for
    the record.  `measure` names the metric that is made of them: see `backends.dynamic.gauge`.
    With `latents` the "call" is what that makes of (model, args, kwargs), sample by sample, or None
    for what cannot be compared.  Of the channels every `stride`-th is compared.
    """

    kind: Literal["input", "output", "added", "entering", "call", "checked"]
    path: str = ""
    index: int = 0
    against: Literal["before", "computed"] = "before"
    when_forced: bool = False
    measure: Measure = "relative L1"
    spectrum: Spectrum | None = None
    latents: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any] | None = None
    start: str = ""
    stride: int = 1

    @property
    def is_inside(self) -> bool:
        """Whether the row is chosen inside of the forward."""
        return self.kind not in ("call", "checked")


@dataclass(frozen=True, slots=True)
class Cut:
    """How a model is cut for a method.

    `exit` names a module before whose input what the blocks add is added, in place of after the
    last block.  With `keeps_outputs` what is kept of blocks is what they give, not what they add.
    The streams that are `plain`, the image or all others, are reused as what was last added to
    them, whatever is kept of the rest and predicted for it.
    """

    look: Look
    exit: str = ""
    keeps_outputs: bool = False
    plain: Literal["", "image", "others"] = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the decisions that a method takes in a forward: how the model is cut for it, and the
    blocks that it is about, all of which row 1 reuses where there are several decisions.

    `method` decides, by a state that is its own, or that parts of the same `state` hand on.
    """

    method: DynamicMethod
    cut: Cut
    blocks: tuple[str, ...]
    state: int = 0


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a method may know of a model: its class, its blocks, all modules by path, and for each
    of the root's children that its forward comes to the lists of modules that it has surely gone
    through before; None where that is not known."""

    kind: str
    blocks: tuple[str, ...]
    modules: frozenset[str]
    behind: Mapping[str, frozenset[str]] | None = None


@runtime_checkable
class DynamicMethod(Protocol):
    """A method that chooses a row at each evaluation.

    `for_model` gives the method with what it knows of a class of models; it, `cut` and `rows` raise
    ValueError for a model that the method cannot carry.  `forced` gives what an evaluation does
    that needs no look, None for the others, for which `choose` is asked; `after` gives the next
    state, of the row that was done, which is 0 wherever the runtime had to.  `schedule` is that of
    a run which reuses wherever it may.  Of every branch `history` computed outputs are kept;
    where they are more than one, `prediction` gives the coefficients, by the evaluation that
    computed them: all so far are given, the newest last.  Of `stores` last predictions, made where
    as many outputs as are kept had been computed, the values are kept too, and have coefficients.
    With a `fit` the coefficients are made of the kept values instead.
    `parts` are its decisions in one forward, in the order in which they are taken.
    """

    granularity: str

    @property
    def history(self) -> int: ...

    @property
    def stores(self) -> int: ...

    def for_model(self, facts: ModelFacts) -> DynamicMethod: ...

    def cut(self, facts: ModelFacts) -> Cut: ...

    def parts(self, facts: ModelFacts) -> tuple[Part, ...]: ...

    def rows(self, branches: tuple[str, ...]) -> Rows: ...

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule: ...

    def prediction(self, computed: tuple[int, ...], at: At) -> Mapping[int, float]: ...

    def fit(self, computed: tuple[int, ...], at: At) -> ModeFit | None: ...

    def begin(self) -> Any: ...

    def forced(self, state: Any, at: At) -> Decided | None: ...

    def choose(self, state: Any, at: At, metric: float) -> int: ...

    def after(self, state: Any, at: At, done: Decided) -> Any: ...


@dataclass(frozen=True, slots=True)
class Dynamic:
    """A method for one model, and its decisions in a forward of it."""

    method: DynamicMethod
    parts: tuple[Part, ...]

    @property
    def cut(self) -> Cut:
        """Of the one decision, or the first."""
        return self.parts[0].cut

    @property
    def is_in_turn(self) -> bool:
        """Whether decisions are taken between blocks, each about those that follow."""
        return len(self.parts) > 1 or self.cut.look.kind == "entering"

    @staticmethod
    def of(method: DynamicMethod, facts: ModelFacts) -> Dynamic:
        """Raises ValueError for a model that the method cannot carry."""
        method = method.for_model(facts)
        dynamic = Dynamic(method, method.parts(facts))
        for path in filter(None, (dynamic.cut.look.path, dynamic.cut.exit)):
            if path not in facts.modules:
                raise ValueError(
                    f"{type(method).__name__}: {facts.kind} has no module {path!r}; name one "
                    "of its modules"
                )
        if not dynamic.is_in_turn:
            _check_comes_first(method, dynamic.cut.look, facts)
        return dynamic


def _check_comes_first(method: DynamicMethod, look: Look, facts: ModelFacts) -> None:
    """Raise ValueError where what is observed lies behind blocks that it is to decide about, or is
    not called.  Where the order of the root's children is not known only a forward can tell."""
    if not look.is_inside:
        return
    decided = [not all(column) for column in method.rows(facts.blocks).T.tolist()]
    around = [look.path == path or look.path.startswith(f"{path}.") for path in facts.blocks]
    if True in around:
        # A block's own input, and what lies in it, are seen before the block itself is done.
        is_behind = look.kind == "added" or (look.kind == "output" and look.path in facts.blocks)
        seen = zip(facts.blocks[: around.index(True) + is_behind], decided, strict=False)
    else:
        seen = zip(_before(method, look, facts), decided, strict=False)
    before = [path for path, may in seen if may]
    if before:
        raise ValueError(
            f"{type(method).__name__}: {look.path} of {facts.kind} comes after "
            f"{before[0]}, which may be reused, so it would be computed before "
            "that is decided; look at the input of the first block, or at a module in it"
        )


def _before(method: DynamicMethod, look: Look, facts: ModelFacts) -> tuple[str, ...]:
    """The blocks that a module outside of all blocks comes after, as far as that is known."""
    if facts.behind is None:
        return ()
    child = look.path.partition(".")[0]
    if child not in facts.behind:
        raise ValueError(
            f"{type(method).__name__}: the forward of {facts.kind} does not call {look.path}, so "
            "there would be nothing to decide by; name a module that it calls"
        )
    return tuple(path for path in facts.blocks if path.partition(".")[0] in facts.behind[child])
