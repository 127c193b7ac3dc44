"""The lane, step and step count that a sampling loop announces for its next calls."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from l2c_rt.runtime.calls import StepError

KNOWN_LANES = {"cond": 0, "cond_uncond": 0, "pred_cond": 0, "uncond": 1, "pred_uncond": 1}
"""Names of diffusers' pipelines and guiders that have the same lane in every run."""

KEYWORDS = dict.fromkeys(
    ("step", "num_steps", "step_index", "num_inference_steps", "sigma", "timestep")
)
"""What `cache_context` takes: our names, and the fields of diffusers' `CacheContext`."""


class StepHint(NamedTuple):
    """Lane, step, number of steps and noise level, as far as the loop announces them."""

    lane: int | None = None
    step: int | None = None
    num_steps: int | None = None
    sigma: float | None = None


NO_HINT = StepHint()


class Announcement(NamedTuple):
    """What one context says of the calls inside.  None where it says nothing.

    A tuple, because one is made at every call and a frozen dataclass is slower to make.
    """

    name: str | None
    step: int | None = None
    num_steps: int | None = None
    sigma: float | None = None

    @staticmethod
    def of(name: object, **keywords: object) -> Announcement:
        """Checked: TypeError for another keyword or kind of value, ValueError for two steps."""
        if not keywords.keys() <= KEYWORDS.keys():
            unknown = next(keyword for keyword in keywords if keyword not in KEYWORDS)
            raise TypeError(
                f"cache_context: got the keyword {unknown!r}, wanted {', '.join(KEYWORDS)}"
            )
        # None comes from guiders whose batch has no identifier.
        if not (name is None or isinstance(name, str)):
            raise TypeError(f"cache_context: name must be text, got {type(name).__name__}")
        return Announcement(
            name,
            _one_of(keywords, "step", "step_index"),
            _one_of(keywords, "num_steps", "num_inference_steps"),
            _level(keywords.get("sigma")),
        )


def _one_of(keywords: dict[str, object], ours: str, theirs: str) -> int | None:
    """The whole number that two keywords of one meaning give."""
    a, b = _whole(ours, keywords.get(ours)), _whole(theirs, keywords.get(theirs))
    if a is not None and b is not None and a != b:
        raise ValueError(f"cache_context: {ours}={a} and {theirs}={b} differ; give one of them")
    return b if a is None else a


def _level(value: Any) -> float | None:
    """A noise level; not NaN, which a guider without one gives."""
    if value is None:
        return None
    try:
        level = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"cache_context: sigma must be a number, got {value!r:.80}") from error
    return None if level != level else level


def _whole(keyword: str, value: Any) -> int | None:
    if value is None or type(value) is int:
        return value
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"cache_context: {keyword} must be an int, got {value!r:.80}") from error


class LaneNames:
    """The lane of each name in the run under way.

    A known name has its lane, unless another name was there first (Cosmos3 calls
    "cond_no_control" before "uncond"); others take the lowest free one, in order of first call.
    """

    def __init__(self, lanes: int) -> None:
        self._count = lanes
        self.begin_run()

    def begin_run(self) -> None:
        """Forget the names: those of the run before hold no lane."""
        self._lanes: dict[str | None, int] = {}
        self._last: tuple[str | None, int | None] = (None, None)

    def keep_only(self, name: str | None) -> None:
        """Forget the others: the call just made in the context `name` began a run."""
        self._lanes = {other: lane for other, lane in self._lanes.items() if other == name}

    def lane(self, name: str | None, asked: int | None, step: int | None = None) -> int:
        """The lane of a call in the context `name`; a new name may ask for one by `lane=`.

        Raises StepError where there are more names than calls per step.
        """
        if self._count == 1:
            self._check_step(name, step)
            return 0
        if name not in self._lanes:
            self._lanes[name] = self._free_lane(name, asked)
        return self._lanes[name]

    def _check_step(self, name: str | None, step: int | None) -> None:
        """With one lane, names are not told apart; two of them in one step are too many."""
        last, last_step = self._last
        self._last = name, step
        if step is not None and step == last_step and name != last:
            raise StepError(
                f"cache_context: {last!r} and {name!r} are both step {step}, but the model was "
                "compiled for one call per step; compile with calls_per_step=2"
            )

    def _free_lane(self, name: str | None, asked: int | None) -> int:
        preferred = KNOWN_LANES.get(name or "", asked)
        for other, lane in self._lanes.items():
            # Two names of one call: "cond_uncond", and "cond" once guidance is off.
            if name in KNOWN_LANES and KNOWN_LANES.get(other or "") == preferred:
                return lane
        free = set(range(self._count)) - set(self._lanes.values())
        if preferred in free:
            return preferred
        if not free:
            others = ", ".join(map(repr, self._lanes))
            raise StepError(
                f"cache_context: {name!r} is one more call per step than the {self._count} "
                f"compiled for ({others}); compile with calls_per_step={self._count + 1}, or call "
                "reset() before a run with other names"
            )
        return min(free)


class StepHints:
    """The contexts that the calls of one session are made in, innermost last."""

    def __init__(self, lanes: int) -> None:
        self.names = LaneNames(lanes)
        self._open: list[Announcement] = []

    @contextmanager
    def context(self, announcement: Announcement) -> Iterator[None]:
        """Calls inside are as announced.  StepError where two contexts overlap un-nested."""
        self._open.append(announcement)
        innermost = False
        try:
            yield
            innermost = self._open[-1] is announcement
        finally:
            self._open.remove(announcement)
        if not innermost:
            raise StepError(
                "contexts of one session overlap, as those of two tasks or threads do, so a call "
                "may have had another's lane; open one session each"
            )

    @property
    def name(self) -> str | None:
        """The name of the innermost context."""
        return self._open[-1].name if self._open else None

    def current(self, lane: int | None) -> StepHint:
        """The hint for a call with `lane=`; StepError where the context is of another lane."""
        if not self._open:
            return StepHint(lane)
        inner = self._open[-1]
        named = self.names.lane(inner.name, lane, inner.step)
        if lane is not None and lane != named:
            raise StepError(f"lane {lane} was called inside the context of lane {named}")
        return StepHint(named, inner.step, inner.num_steps, inner.sigma)
