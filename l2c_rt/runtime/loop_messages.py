"""What the runtime says of a loop that is not the one it knows, with the likely cause."""

from __future__ import annotations

from collections.abc import Sequence

from l2c_rt.runtime.known_loop import KnownLoop, goes_on, same_timestep

TWO_REQUESTS = "two requests on one session? Open one session each, with fast.session()"

NO_GRADIENTS = (
    "x requires grad, but compiled calls have no gradients: what is computed from their outputs "
    "lacks those of the model; for them, call the model itself"
)


def more_calls(steps: int) -> str:
    """Why there may be more calls than evaluations."""
    return (
        f"does the loop make more calls than the {steps} evaluations of the schedule (more steps, "
        "a second-order solver; or cond and uncond apart, which takes calls_per_step=2)?"
    )


def misfit(t: float, k: int, expected: float, loop: KnownLoop | None) -> str:
    """A call whose timestep is not that of its evaluation."""
    source = "timesteps=" if loop is not None and loop.given else "earlier calls"
    cause = _cause(t, k, () if loop is None else loop.timesteps)
    end = "" if cause.endswith("?") else "."
    return (
        f"step {k}: expected timestep {expected:g} (from {source}), got {t:g}{cause}{end} The run "
        "was reset; compile with the timesteps of this loop, or use a schedule made for it"
    )


def _cause(t: float, k: int, timesteps: Sequence[float]) -> str:
    """What a call at step k with another timestep usually is, as the end of a clause."""
    steps = len(timesteps)
    if not timesteps:
        return ""
    places = [s for s, expected in enumerate(timesteps) if same_timestep(t, expected)]
    # The last timestep once more is the second stage of a solver, rather than a run of one step.
    if k == 0 and places and places[0] < steps - 1:
        return f": a loop that starts at step {places[0]} of {steps} (strength, img2img)?"
    if k == 0 or goes_on(t, timesteps):
        return ": " + more_calls(steps)
    return f": {TWO_REQUESTS}" if places else ""


def lane_ahead(k: int, lane: int, behind: int) -> str:
    """A lane that was called twice in a step."""
    return (
        f"step {k}: lane {lane} was called again before lane {behind} was at step {k - 1}; every "
        "lane must be called once per step"
    )


def another_number(num_steps: int, steps: int) -> str:
    """A loop that announces another number of steps."""
    return (
        f"this loop has {num_steps} steps, but the schedule was made for {steps}; use a schedule "
        "for this number of steps"
    )


def too_long(t: float, steps: int) -> str:
    """A call that goes on after the last evaluation."""
    return (
        f"call {steps + 1}: timestep {t:g} goes on after the {steps} evaluations of the schedule: "
        f"{more_calls(steps)} Use a schedule for the number of calls that the loop "
        "makes"
    )


def another_run_goes_on(t: float | None, k: int) -> str:
    """A call of a run that was left, in the middle of the one after it."""
    at = "" if t is None else f", timestep {t:g},"
    return f"step {k}: this call{at} goes on with the run before this one: {TWO_REQUESTS}"


def forgotten_run_goes_on(steps: int) -> str:
    """A call of a run that a reset, an error or `sleep` has ended."""
    return (
        "this call goes on with a run that was reset (by reset(), sleep() or an error): its cache "
        f"is gone; begin the loop of {steps} evaluations again"
    )


def twice_per_step(t: float, k: int) -> str:
    """Every timestep comes twice."""
    return (
        f"step {k}: timestep {t:g} again: every timestep comes twice. If the loop calls cond and "
        f"uncond separately, compile with calls_per_step=2; otherwise: {TWO_REQUESTS}"
    )


def restarted(done: int, steps: int) -> str:
    """A run that began where another was under way."""
    return (
        f"a run began after {done} of {steps} evaluations of the one before: if that one was "
        "cancelled, call reset() first; if the loop has another number of steps than the "
        f"schedule's {steps}, use a schedule for that number"
    )


def unfinished(event: str, done: int, steps: int) -> str:
    """A run that ended early with its session or its pipeline's loop."""
    return (
        f"{event} after {done} of {steps} evaluations: if the run was not cancelled, "
        f"the loop has another number of steps than the schedule's {steps}; use one for it"
    )


def late_start(k: int, steps: int) -> str:
    """A run that begins in the middle of a known loop."""
    return (
        f"a run started at step {k} of {steps} (strength, img2img): it is computed in full, since "
        "the schedule is for whole runs; use a schedule for the steps that are left"
    )


def not_proved(k: int, steps: int) -> str:
    """A run of an unknown loop whose latents do not show that its calls belong together."""
    return (
        f"a run was computed in full from step {k} of {steps} on: its timesteps are not known, and "
        "its input does not follow from the outputs before (a sampler that adds noise?). "
        "Pass timesteps= to compile; otherwise the first complete run shows them"
    )


def another_loop(known: KnownLoop, t: float, k: int) -> str:
    """A loop that is not the one which a router, a preset or a schedule was made for."""
    return (
        f"the loop is not the one that the schedule was made for: at step {k} it has timestep "
        f"{t:g}, the schedule's loop has {known.timesteps[k]:g} ({known.timesteps[0]:g} to "
        f"{known.timesteps[-1]:g}); quality may suffer. Use the schedule's timesteps, or learn a "
        "router for this loop"
    )


def other_input(step: int, now: object, began: object) -> str:
    """What calls of a run are given must stay of one kind."""
    return (
        f"step {step}: input is {now}, but the run began with {began}; finish the run or call "
        "reset() before changing it"
    )


def other_step(announced: int, lane: int, k: int) -> str:
    return f"step {announced} was announced, but lane {lane} is at step {k}"
