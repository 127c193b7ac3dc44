"""Which evaluation is this, and may it reuse?  Counting calls against what is known of the loop.

Pure Python.  A run is S evaluations, each called once per lane.  The rule (docs/loops.md): an
evaluation reuses where its run is known to be this loop, announced step by step, or shown by its
latents; otherwise the rest of the run is computed in full.
"""

from __future__ import annotations

from l2c_rt.runtime import loop_messages as messages
from l2c_rt.runtime.calls import Call, Latents, StepError, Tell, Tick, Unseen
from l2c_rt.runtime.known_loop import KnownLoop, same_timestep
from l2c_rt.runtime.run_counts import RunCounts
from l2c_rt.runtime.run_state import RunState


class StepClock:
    """Turns calls into ticks.  Every StepError leaves the clock reset.

    `known` is checked at every call; without it the first complete run is remembered.  Calls of a
    model without timesteps are only counted.
    """

    def __init__(
        self,
        steps: int,
        lanes: int = 1,
        known: KnownLoop | None = None,
        counts: RunCounts | None = None,
        tell: Tell = lambda kind, text: None,
    ) -> None:
        if isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1:
            raise ValueError(f"calls_per_step: got {lanes!r}, wanted an int of at least 1")
        self.steps, self.lanes, self.known = steps, lanes, known
        self.has_timesteps = True
        self.abandoned = self.completed = 0
        self._run_counts, self._tell = counts or RunCounts(), tell
        self._run = RunState(steps, lanes)
        self._left_at: int | None = None
        self._before: RunState | None = None

    def reset(self, *, forget_timesteps: bool = False) -> None:
        """Forget the run under way; with `forget_timesteps`, also what earlier runs looked like."""
        was_mid_run = self.mid_run
        self._abandon()
        self._left_at = None
        if not was_mid_run or forget_timesteps:
            self._before = None
        if forget_timesteps and self.known is not None and not self.known.given:
            self.known = None

    @property
    def mid_run(self) -> bool:
        return self._run.calls > 0

    @property
    def evaluations(self) -> int:
        """Those of the run under way so far."""
        return len(self._run.seen)

    @property
    def timesteps(self) -> tuple[float, ...] | None:
        """Those of the whole run under way, where it is known to have them."""
        return self.known.timesteps if self.known and self._run.checked else None

    @property
    def trusted(self) -> bool:
        """Whether the run under way may reuse without a look at its latents."""
        return self._run.trusted

    def tick(
        self,
        t: float | None,
        lane: int | None = None,
        step: int | None = None,
        num_steps: int | None = None,
        latents: Latents | None = None,
    ) -> Tick:
        """Place one call.  `t` is None where it cannot be read without waiting for the GPU.

        Raises StepError naming step, expected and got.
        """
        try:
            self._check_arguments(lane, num_steps)
            call = self._call(t, lane, step, latents or Unseen())
            over = 0
            if self.mid_run and self._starts_over(call):
                over = self._leave_run()
                call = self._call(t, lane, step, call.latents)
            if step is not None and step != call.k:
                raise StepError(messages.other_step(step, call.lane, call.k))
            if not self.mid_run:
                self._begin(call, over)
            return self._place(call)
        except StepError:
            self._abandon()
            raise

    def tick_known(self, t: float) -> Tick | None:
        """The place of a call that just goes on in a trusted run: what `tick` gives, but faster."""
        return self._run.next_known(t, self.known) if self.known else None

    def done(self) -> bool:
        """The call just placed has succeeded; True where it completes the run."""
        run = self._run
        if min(run.counts) < self.steps:
            return False
        if self.known is None and len(run.timesteps) == self.steps:
            self.known = KnownLoop(tuple(run.timesteps), "earlier runs")
        self.completed += 1
        self._run_counts.completed += 1
        self._left_at, self._before = None, run
        self._run = RunState(self.steps, self.lanes)
        return True

    def _check_arguments(self, lane: int | None, num_steps: int | None) -> None:
        if lane is not None and not 0 <= lane < self.lanes:
            raise StepError(
                f"lane {lane} of {self.lanes}: compile with calls_per_step={lane + 1} to call it"
            )
        if num_steps is not None and num_steps != self.steps:
            raise StepError(messages.another_number(num_steps, self.steps))

    def _call(self, t: float | None, lane: int | None, step: int | None, latents: Latents) -> Call:
        lane = self._run.calls % self.lanes if lane is None else lane
        return Call(t, lane, self._run.counts[lane], step, latents)

    def _abandon(self) -> None:
        if self.mid_run:
            self.abandoned += 1
            self._run_counts.abandoned += 1
            self._before = self._run
        self._run = RunState(self.steps, self.lanes)

    def _leave_run(self) -> int:
        """A run begins although the last one was not finished; how many evaluations that had."""
        done = self.evaluations
        self._left_at = min(self._run.counts)
        self._tell("restarted", messages.restarted(done, self.steps))
        self._abandon()
        return done

    def _starts_over(self, call: Call) -> bool:
        """Whether this call begins a new run although the last one was not finished."""
        run, t, k = self._run, call.t, call.k
        if call.step is not None:
            return call.step == 0 and k > 0
        if t is None or run.last is None:
            return False
        if k < len(run.seen):
            # Another lane was here already, at this timestep.
            return not run.is_at(k, t) and (run.backwards(t) or run.is_at(0, t))
        if run.checked and k < self.steps:
            starts = self._known_starts_over(t, k)
            if starts is not None:
                return starts
            self._drop_known(call)
        return run.latents_start_over(call)

    def _known_starts_over(self, t: float, k: int) -> bool | None:
        """The same of a loop that is known; None where the loop at hand is another one."""
        known, run = self.known, self._run
        assert known is not None
        assert run.last is not None
        place = known.place(t)
        if same_timestep(t, known.timesteps[k]):
            return False
        if place is not None and place == self._left_at:
            raise StepError(messages.another_run_goes_on(t, k))
        if place == 0 or (place is not None and not known.given):
            # One that only leaves out a repeated timestep is another loop: its latents tell.
            return None if place and known.repeats(run.last, range(k, place)) else True
        return run.backwards(t) or same_timestep(t, run.last) if known.given else None

    def _drop_known(self, call: Call) -> None:
        """The loop is not the one that a schedule or earlier runs have shown."""
        assert self.known is not None
        assert call.t is not None
        if self.known.source == "the schedule":
            self._tell("another loop", messages.another_loop(self.known, call.t, call.k))
        self.known = None
        self._run.checked = self._run.trusted = False

    def _begin(self, call: Call, over: int) -> None:
        """Decide what the run that begins here may take for known."""
        run, known, t = self._run, self.known, call.t
        place = 0 if known is None or t is None else known.place(t)
        if not over and (known is None or place != 0):
            self._refuse_what_goes_on(call)
        run.over = over
        if known is not None and place == 0:
            run.checked = self.has_timesteps
            run.trusted = run.checked and over == 0
        elif known is not None and known.given:
            assert t is not None
            raise StepError(messages.misfit(t, 0, known.timesteps[0], known))
        elif place:
            run.full = True
            self._tell("late start", messages.late_start(place, self.steps))
        elif known is not None:
            self._drop_known(call)
        if call.step is not None:
            run.trusted = over == 0

    def _refuse_what_goes_on(self, call: Call) -> None:
        """A loop longer than the schedule, or a run that was reset, seems to begin a run."""
        if self._before is None or not self._before.is_continued_by(call):
            return
        if min(self._before.counts) < self.steps:
            raise StepError(messages.forgotten_run_goes_on(self.steps))
        if self.known is not None and self.known.source == "earlier runs":
            # It was learned from a run that was not complete after all.
            self.known = None
        assert call.t is not None
        raise StepError(messages.too_long(call.t, self.steps))

    def _place(self, call: Call) -> Tick:
        run, (t, lane, k, _, _) = self._run, call
        first = not self.mid_run
        if k > min(run.counts):
            behind = run.counts.index(min(run.counts))
            raise StepError(messages.lane_ahead(k, lane, behind))
        self._check_timestep(call)
        reuse = self._may_reuse(call)
        run.add(t, lane, k)
        return Tick(k, lane, first, reuse)

    def _may_reuse(self, call: Call) -> bool:
        run, k = self._run, call.k
        if run.trusted or k == 0:
            return True
        if not run.full and call.latents.to_run() == "foreign":
            # Slots hold what the plan wants of every evaluation, so there is no way back.
            run.full = True
            self._tell("not proved", messages.not_proved(k, self.steps))
        return not run.full

    def _check_timestep(self, call: Call) -> None:
        t, k, run = call.t, call.k, self._run
        expected = run.seen[k] if k < len(run.seen) else None
        known = self.known if run.checked else None
        if known is not None:
            expected = known.timesteps[k]
        if t is None or expected is None or same_timestep(t, expected):
            return
        if known is None or known.given:
            raise StepError(messages.misfit(t, k, expected, self.known))
        # An announced step, which tells where it is also in another loop.
        self._drop_known(call)
        run.trusted = run.over == 0
