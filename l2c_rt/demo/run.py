"""What `l2c-rt demo` does: sample digits with and without a cache, measure, write the report."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from l2c_rt.api import compile
from l2c_rt.demo.classifier import Classifier, train_classifier
from l2c_rt.demo.digits import Digits, even_labels, load_digits
from l2c_rt.demo.figures import Block, Samples, draw_samples, latency_figure
from l2c_rt.demo.metrics import frechet_distance, psnr_per_image
from l2c_rt.demo.report import Result, Timing, table, write_report
from l2c_rt.demo.shipped import load_demo_model, load_demo_router
from l2c_rt.figures import save_figure
from l2c_rt.measure.clocks import host_seconds
from l2c_rt.measure.interleaved import there_and_back
from l2c_rt.measure.machine import processor_name
from l2c_rt.policies import EveryN, Full, NoisiestFirst, Random
from l2c_rt.policies.router import Router
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.schedule.cache_schedule import CacheSchedule

Key = tuple[str, float]
NARROW = "learned, bf16"
"""The learned schedule with products in bfloat16: its PSNR is to the learned one in float32."""


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What is sampled. `images` go through one run; all rounds' images count for quality, and all
    rounds but the first, which warms up, for time."""

    seed: int = 0
    images: int = 40
    rounds: int = 4
    guidance: float = 1.5
    reuse: float = 0.45
    more_reuse: tuple[float, ...] = (0.25, 0.65, 0.85)
    steps: tuple[int, ...] = (20, 50)


@dataclass(slots=True)
class Trial:
    """One schedule under test: what runs it, the images and the seconds so far."""

    schedule: CacheSchedule
    fast: Compiled
    images: list[Tensor]
    seconds: list[float]

    def sample(self, noise: Tensor, labels: Tensor, settings: DemoSettings) -> None:
        """One run, its images added to the others."""
        self.images.append(self.fast.sample(noise, labels, cfg_scale=settings.guidance))


def equal_compute(learned: CacheSchedule, seed: int) -> dict[str, CacheSchedule]:
    """The controls: as many computed branches as `learned`, chosen without learning."""
    return {
        "every-N": EveryN.like(learned),
        "random": Random.like(learned, seed),
        "noisiest first": NoisiestFirst.like(learned),
    }


def schedules_of(router: Router, settings: DemoSettings) -> dict[Key, CacheSchedule]:
    """Every schedule of one number of steps by (name, ratio); the full run comes first."""
    learned = router.schedule(reuse=settings.reuse)
    schedules = {("full", 0.0): Full().schedule(learned.steps, learned.branches)}
    schedules["learned", settings.reuse] = learned
    for name, schedule in equal_compute(learned, settings.seed).items():
        schedules[name, settings.reuse] = schedule
    for ratio in settings.more_reuse:
        schedules["learned", ratio] = router.schedule(reuse=ratio)
    return schedules


def trials_of(model: nn.Module, schedules: Mapping[Key, CacheSchedule]) -> dict[Key, Trial]:
    """A trial of every schedule."""
    return {
        key: Trial(schedule, compile(model, schedule), [], [])
        for key, schedule in schedules.items()
    }


def with_narrow(trials: dict[Key, Trial], model: nn.Module, ratio: float) -> dict[Key, Trial]:
    """The trials, and where this CPU has it one with narrow products."""
    learned = trials["learned", ratio].schedule
    # Where it has not, compile refuses.
    with suppress(ValueError):
        narrow = compile(model, learned, precision="bf16")
        return trials | {(NARROW, ratio): Trial(learned, narrow, [], [])}
    return trials


def sample_rounds(
    trials: Mapping[Key, Trial], settings: DemoSettings, advance: Callable[[int], object]
) -> None:
    """Sample every schedule from the same noise, round after round, in alternating order.

    `advance` is told the evaluations done after each run.
    """
    labels = even_labels(settings.images)
    for number, trials_in_order in enumerate(there_and_back(trials.values(), settings.rounds)):
        generator = torch.Generator().manual_seed(settings.seed * 1_000 + number)
        noise = torch.randn(settings.images, 1, 8, 8, generator=generator)
        for trial in trials_in_order:
            trial.seconds.append(host_seconds(partial(trial.sample, noise, labels, settings)))
            advance(trial.schedule.steps)


def measure(
    trials: Mapping[Key, Trial],
    labels: Tensor,
    digits: Digits,
    classifier: Classifier,
) -> list[Result]:
    """Turn what was sampled into results, the full run first."""
    full = trials["full", 0.0]
    results = []
    for (name, ratio), trial in trials.items():
        images = torch.cat(trial.images)
        of = trials["learned", ratio] if name == NARROW else full
        psnr = psnr_per_image(images, torch.cat(of.images)).tolist()
        results.append(
            Result(
                steps=trial.schedule.steps,
                name=name,
                ratio=ratio,
                reuse=trial.schedule.reuse_share,
                cost_share=1 / trial.fast.cost.speedup_limit,
                timing=Timing(tuple(trial.seconds[1:]), tuple(full.seconds[1:])),
                psnr=() if trial is full else tuple(psnr),
                frechet=frechet_distance(images, digits.images, classifier.features),
                accuracy=classifier.accuracy(images, labels),
            )
        )
    return results


def about(settings: DemoSettings, digits: Digits, classifier: Classifier) -> dict[str, Any]:
    """What a reader of the numbers has to know."""
    total = settings.images * settings.rounds
    chosen = torch.randperm(len(digits), generator=torch.Generator().manual_seed(settings.seed))
    some = digits.images[chosen[:total]]
    return {
        "settings": asdict(settings),
        "images": settings.images,
        "rounds": settings.rounds - 1,
        "total": total,
        "guidance": settings.guidance,
        "threads": torch.get_num_threads(),
        "real": len(digits),
        "frechet_real": frechet_distance(some, digits.images, classifier.features),
        "held_out": classifier.held_out_count,
        "held_out_accuracy": classifier.held_out_accuracy,
        "machine": processor_name(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def sample_all(settings: DemoSettings, *, progress: bool) -> dict[int, dict[Key, Trial]]:
    """Sample every schedule at every number of steps, with one progress bar."""
    model, every = load_demo_model(), dict[int, dict[Key, Trial]]()
    for steps in settings.steps:
        # The line over several shares of reuse is drawn for the cheapest run only.
        shown = settings if steps == min(settings.steps) else replace(settings, more_reuse=())
        trials = trials_of(model, schedules_of(load_demo_router(steps), shown))
        every[steps] = with_narrow(trials, model, settings.reuse)
    total = settings.rounds * sum(steps * len(trials) for steps, trials in every.items())
    with tqdm(total=total, desc="sample", unit="evaluation", disable=not progress) as bar:
        for trials in every.values():
            sample_rounds(trials, settings, bar.update)
    return every


def run_demo(out: Path, settings: DemoSettings | None = None, *, progress: bool = True) -> str:
    """Write samples, schedule map, latency picture and report to `out`; return what to print."""
    settings = settings or DemoSettings()
    if settings.rounds < 2 or settings.images < 40:
        raise ValueError(
            f"run_demo: got {settings.rounds} rounds of {settings.images} images, wanted 2 rounds "
            "or more (the first warms up) of 40 images or more (the picture shows 4 of each class)"
        )
    out.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    classifier = train_classifier(digits, settings.seed)
    trials = sample_all(settings, progress=progress)
    labels = even_labels(settings.images).repeat(settings.rounds)
    results = [
        result for tried in trials.values() for result in measure(tried, labels, digits, classifier)
    ]
    shown = [r for r in results if r.name == "full" or r.ratio == settings.reuse]
    # Of narrow products the difference is too small to be seen.
    wide = [result for result in results if result.name != NARROW]
    pictures = [*draw(out, trials, [r for r in wide if r in shown]), out / "latency.png"]
    latency = latency_figure(wide, "Digits DiT: time and fidelity of the cached runs")
    save_figure(latency, pictures[-1], dpi=150)
    write_report(out, results, shown, about(settings, digits, classifier), pictures)
    return "\n".join([table(shown), "", *map(str, pictures), str(out / "report.md")])


def draw(
    out: Path, trials: Mapping[int, Mapping[Key, Trial]], shown: Sequence[Result]
) -> list[Path]:
    """The samples of all schedules shown, and the map of each learned one."""
    blocks, pictures = [], [out / "samples.png"]
    for steps, tried in trials.items():
        full, learned, *controls = [result for result in shown if result.steps == steps]
        best_first = sorted(controls, key=lambda result: -(result.mean_psnr or 0.0))
        samples = [
            Samples(result.name, tried[result.name, result.ratio].images[0], result.mean_psnr)
            for result in (full, learned, *best_first)
        ]
        title = f"DDIM-{steps}\n{100 * learned.reuse:.1f} % reused"
        blocks.append(Block(title, samples[0], tuple(samples[1:])))
        pictures.append(out / f"schedule-{steps}.png")
        tried["learned", learned.ratio].schedule.plot(pictures[-1])
    draw_samples(pictures[0], blocks, even_labels(len(blocks[0].full.images)))
    return pictures
