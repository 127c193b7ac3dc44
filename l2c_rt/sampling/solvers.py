"""The two published solvers as tables of numbers: DDIM with eta 0, DPM-Solver++ singlestep order 2.

numpy only, float64; the latents that a solver moves are whatever has the arithmetic of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Latents = TypeVar("Latents", bound="_Arithmetic")


class _Arithmetic(Protocol):
    """What the updates ask of latents: torch tensors, numpy arrays and plain floats have it."""

    def __add__(self: Latents, other: Latents, /) -> Latents: ...
    def __sub__(self: Latents, other: Latents, /) -> Latents: ...
    def __mul__(self: Latents, other: float | Latents, /) -> Latents: ...
    def __truediv__(self: Latents, other: float | Latents, /) -> Latents: ...


@dataclass(frozen=True, slots=True)
class DDIM:
    """x' = a[k] x + b[k] eps.  Source: arXiv 2010.02502 eq. 12 with sigma 0, on DiT's spaced
    steps and linear betas.

    Shapes: timesteps, a, b [S], in execution order.
    """

    evaluations_per_step: ClassVar[int] = 1

    timesteps: tuple[int, ...]
    a: Array
    b: Array

    def update(self, k: int, x: Latents, eps: Latents, anchor: Latents) -> Latents:
        """The latents after evaluation k, which predicted the noise `eps` in x; needs no anchor."""
        return self.moved((float(self.a[k]), float(self.b[k])), x, eps, anchor)

    def numbers(self) -> Array:
        """What `moved` wants of every evaluation.  Shapes: [S, 2]."""
        return np.stack([self.a, self.b], axis=1)

    @staticmethod
    def moved(
        numbers: Sequence[float | Latents], x: Latents, eps: Latents, anchor: Latents
    ) -> Latents:
        """As `update`, with an evaluation's numbers, or tensors of those of many."""
        a, b = numbers
        return x * a + eps * b

    def coefficients(self) -> Array:
        """(a, b, 0, 0) per evaluation: a table like `DPMSolver.coefficients`.  Shapes: [S, 4]."""
        zeros = np.zeros_like(self.a)
        return np.stack([self.a, self.b, zeros, zeros], axis=1)

    def signal(self, k: int) -> float:
        """alpha-bar at evaluation k: the share of clean latents in the variance of noised ones."""
        return float(linear_alphas_bar()[self.timesteps[k]])

    def training_timestep(self, k: int) -> int:
        """The timestep of evaluation k, which is one that the model was trained on."""
        return self.timesteps[k]


def linear_alphas_bar(train_steps: int = 1000) -> Array:
    """Cumulative products of 1 - beta for DiT's linear betas, scaled to the number of steps."""
    scale = 1000 / train_steps
    betas = np.linspace(scale * 0.0001, scale * 0.02, train_steps, dtype=np.float64)
    return np.asarray(np.cumprod(1.0 - betas), np.float64)


def discrete_alphas_bar(train_steps: int = 1000) -> Array:
    """Cumulative products of 1 - beta for stable diffusion's betas, as U-ViT was trained."""
    return np.asarray(np.cumprod(1.0 - _discrete_betas(train_steps)), np.float64)


def _discrete_betas(train_steps: int) -> Array:
    return np.square(np.linspace(0.00085**0.5, 0.0120**0.5, train_steps), dtype=np.float64)


def spaced_timesteps(steps: int, train_steps: int = 1000) -> tuple[int, ...]:
    """`steps` timesteps from noisy to clean, evenly spaced from the last to 0.

    Source: DiT's create_diffusion(str(steps)).  Raises ValueError outside 1..train_steps.
    """
    if not 1 <= steps <= train_steps:
        raise ValueError(f"steps: got {steps}, wanted 1 to {train_steps}")
    stride = (train_steps - 1) / (steps - 1) if steps > 1 else 1.0
    # Summed up rather than multiplied, as published: rounding of the half-way cases follows it.
    points, at = [], 0.0
    for _ in range(steps):
        points.append(round(at))
        at += stride
    return tuple(reversed(points))


def ddim(steps: int, train_steps: int = 1000) -> DDIM:
    """DDIM's coefficients for a number of steps."""
    timesteps = spaced_timesteps(steps, train_steps)
    alphas = linear_alphas_bar(train_steps)
    now = alphas[list(timesteps)]
    then = np.append(now[1:], 1.0)
    a = np.sqrt(then / now)
    b = np.sqrt(1.0 - then) - np.sqrt(then * (1.0 - now) / now)
    return DDIM(timesteps, a, b)


@dataclass(frozen=True, slots=True)
class DPMSolver:
    """Singlestep order 2 in data prediction, r1 = 1/2: two evaluations per outer step.

    Evaluation e at time `timesteps[e]` predicts x0 = (x - sigma[e] eps) / alpha[e].  The first of
    a pair gives the midpoint `keep[e] x + weight[e] x0`, the second the next point from the
    pair's start x, its x0 and the midpoint's: `keep[e] x + weight[e] x0_mid`.
    Source: arXiv 2211.01095 with U-ViT's discrete noise schedule; shapes [S].
    """

    evaluations_per_step: ClassVar[int] = 2

    timesteps: tuple[float, ...]
    alpha: Array
    sigma: Array
    keep: Array
    weight: Array

    def update(self, k: int, x: Latents, eps: Latents, anchor: Latents) -> Latents:
        """The latents after evaluation k, which predicted the noise `eps` in x.

        `anchor` are the latents at the start of the solver step: x itself at its first evaluation.
        """
        columns = (self.alpha, self.sigma, self.keep, self.weight)
        return self.moved([float(column[k]) for column in columns], x, eps, anchor)

    def numbers(self) -> Array:
        """As `DDIM.numbers`.  Shapes: [S, 4]."""
        return np.stack([self.alpha, self.sigma, self.keep, self.weight], axis=1)

    @staticmethod
    def moved(
        numbers: Sequence[float | Latents], x: Latents, eps: Latents, anchor: Latents
    ) -> Latents:
        """As `DDIM.moved`."""
        alpha, sigma, keep, weight = numbers
        clean = (x - eps * sigma) / alpha
        return anchor * keep + clean * weight

    def coefficients(self) -> Array:
        """(a, b, c, save) of `x' = a x + b eps + c anchor` per evaluation.

        Where save is 1 the x before the update is the next evaluation's anchor.  Shapes: [S, 4].
        """
        a, b = self.weight / self.alpha, -self.weight * self.sigma / self.alpha
        first = np.arange(len(a)) % self.evaluations_per_step == 0
        # The first of a pair is its own anchor, so that a device need not have stored it yet.
        return np.stack([a + first * self.keep, b, ~first * self.keep, first], axis=1)

    def signal(self, k: int) -> float:
        """As `DDIM.signal`; the timesteps of training begin at 1."""
        return float(discrete_alphas_bar()[round(self.timesteps[k]) - 1])

    def training_timestep(self, k: int) -> float:
        """The timestep of evaluation k, rounded to one that the model was trained on."""
        return float(round(self.timesteps[k]))


def dpm_solver(evaluations: int, train_steps: int = 1000) -> DPMSolver:
    """The solver's table for `evaluations` model evaluations.

    Raises ValueError for an odd number of them, or fewer than 2.
    """
    pairs, odd = divmod(evaluations, 2)
    if odd or pairs < 1:
        raise ValueError(
            f"DPM-Solver of order 2 takes an even number of evaluations, at least 2; got "
            f"{evaluations}"
        )
    noise = _DiscreteNoise(train_steps)
    grid = np.linspace(1.0, 1.0 / train_steps, pairs + 1)
    start, end = noise.log_snr(grid[:-1]), noise.log_snr(grid[1:])
    step = end - start
    middle = noise.time(start + 0.5 * step)
    times = np.stack([grid[:-1], middle], axis=1).reshape(-1)
    alpha, sigma = noise.alpha_sigma(times)
    alpha_end, sigma_end = noise.alpha_sigma(grid[1:])
    keep = np.stack([sigma[1::2], sigma_end], axis=1) / sigma[0::2, None]
    weight = np.stack([-alpha[1::2] * np.expm1(-0.5 * step), -alpha_end * np.expm1(-step)], axis=1)
    timesteps = tuple(float(t) for t in times * train_steps)
    return DPMSolver(timesteps, alpha, sigma, keep.reshape(-1), weight.reshape(-1))


class _DiscreteNoise:
    """log alpha, piecewise linear in time between the discrete steps (stable diffusion's betas)."""

    def __init__(self, train_steps: int) -> None:
        self._times = np.linspace(1.0 / train_steps, 1.0, train_steps)
        self._log_alpha = 0.5 * np.log(1.0 - _discrete_betas(train_steps)).cumsum()

    def alpha_sigma(self, time: Array) -> tuple[Array, Array]:
        log_alpha = np.interp(time, self._times, self._log_alpha)
        return np.exp(log_alpha), np.sqrt(-np.expm1(2.0 * log_alpha))

    def log_snr(self, time: Array) -> Array:
        """lambda = log(alpha / sigma)."""
        alpha, sigma = self.alpha_sigma(time)
        return np.asarray(np.log(alpha) - np.log(sigma))

    def time(self, log_snr: Array) -> Array:
        """The inverse of `log_snr`."""
        log_alpha = -0.5 * np.logaddexp(0.0, -2.0 * log_snr)
        # np.interp wants rising abscissae; log alpha falls with time.
        return np.interp(log_alpha, self._log_alpha[::-1], self._times[::-1])


PublishedSolver = DDIM | DPMSolver

SOLVERS: Mapping[str, Callable[[int], PublishedSolver]] = {"ddim": ddim, "dpm-solver": dpm_solver}
"""{sampler: its table for a number of evaluations}."""


def starts_step(solver: PublishedSolver, k: int) -> bool:
    """Whether evaluation k is the first of its solver step, whose latents are the anchor."""
    return k % solver.evaluations_per_step == 0


def solver_for(sampler: str, steps: int) -> PublishedSolver:
    """The table of a published solver for a schedule of `steps` evaluations.

    Raises ValueError for a sampler that is not known or a number of steps that it cannot take.
    """
    if sampler not in SOLVERS:
        raise ValueError(f"sample: sampler {sampler!r} is not one of {', '.join(SOLVERS)}")
    return SOLVERS[sampler](steps)
