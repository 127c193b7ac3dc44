"""What a command is given as FILE|PRESET: a router, a schedule, or the name of one we carry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from l2c_rt import demo
from l2c_rt.cli.checks import DIGITS
from l2c_rt.cli.exits import reading, refuse

if TYPE_CHECKING:
    from l2c_rt.policies.router import Router
    from l2c_rt.schedule.cache_schedule import CacheSchedule

METAVAR = "FILE|PRESET"
SMOOTHCACHE = "SmoothCache schedule"
PUBLISHED_SUFFIXES = (".pt", ".pth")
DIGITS_STEPS = (20, 50)
DIGITS_ROUTERS = {
    f"{DIGITS}/ddim-{steps}": Path(demo.__file__).parent / f"assets/digits-ddim-{steps}.safetensors"
    for steps in DIGITS_STEPS
}
"""The routers of the digits model, by name."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where a router's scores are cut: --threshold or --reuse, or as published."""

    threshold: float | None = None
    reuse: float | None = None

    @property
    def option(self) -> str:
        """The option that was given; "" where none was."""
        if self.threshold is not None:
            return "--threshold"
        return "" if self.reuse is None else "--reuse"


@dataclass(frozen=True, slots=True)
class SmoothCacheHeader:
    """What a SmoothCache file does not say."""

    blocks: int | None = None
    family: str = ""
    sampler: str = ""

    @property
    def option(self) -> str:
        """The first option that was given; "" where none was."""
        return next((f"--{name}" for name in self.__slots__ if getattr(self, name)), "")


@dataclass(frozen=True, slots=True)
class Source:
    """A router with the schedules that it can give, or one schedule."""

    kind: str
    router: Router | None = None
    fixed: CacheSchedule | None = None

    def schedule(self, cut: Threshold) -> CacheSchedule:
        """The schedule; a router makes it at this cut."""
        if cut.threshold is not None and cut.reuse is not None:
            refuse("--reuse", "give --threshold or --reuse, not both")
        if self.router is not None:
            return self.router.schedule(cut.threshold, cut.reuse)
        if cut.option:
            refuse(cut.option, f"needs the scores of a router, and this is a {self.kind}")
        assert self.fixed is not None, f"{self.kind=}"
        return self.fixed


def read_source(name: str, left_out: SmoothCacheHeader | None = None) -> Source:
    """Read a router, a schedule or a preset."""
    left_out = left_out or SmoothCacheHeader()
    source = _read(name, left_out)
    if left_out.option and source.kind != SMOOTHCACHE:
        refuse(left_out.option, f"is for SmoothCache files, and {name} is a {source.kind}")
    return source


def _read(name: str, left_out: SmoothCacheHeader) -> Source:
    from l2c_rt import presets
    from l2c_rt.policies.router import Router

    if name in presets.names():
        return Source("preset", fixed=presets.load(name))
    path = DIGITS_ROUTERS.get(name) or Path(name)
    with reading():
        if not path.exists():
            names = ", ".join((*presets.names(), *DIGITS_ROUTERS))
            raise ValueError(f"{name}: no such file, and no preset; presets are {names}")
        if path.suffix == ".json":
            return _schedule_file(path, left_out)
        router = Router.load(path)
    kind = "published router" if path.suffix in PUBLISHED_SUFFIXES else "router"
    return Source(kind, router=router)


def _schedule_file(path: Path, left_out: SmoothCacheHeader) -> Source:
    from l2c_rt.schedule.cache_schedule import CacheSchedule
    from l2c_rt.schedule.files import MAX_FILE_BYTES
    from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded

    with naming(path):
        fields = parse_json(read_bounded(path, MAX_FILE_BYTES, "schedule"))
    if isinstance(fields, dict) and "format" in fields:
        return Source("schedule", fixed=CacheSchedule.load(path))
    header = {"family": left_out.family, "sampler": left_out.sampler}
    schedule = CacheSchedule.from_smoothcache(path, blocks=left_out.blocks, **header)
    return Source(SMOOTHCACHE, fixed=schedule)
