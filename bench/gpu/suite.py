"""Running parts: each writes its result at once, is not repeated, and none starts out of time."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gpu.ceilings import Bench, bench_on, copy_bandwidth, matmul_rate
from gpu.environment import ROOT, commit, environment, nvidia_smi, source_digest
from gpu.models import Rig
from gpu.peers import Tools, tools_for
from gpu.timing import Clock, Effort, clock_for
from l2c_rt.measure.ceilings import Ceilings

RESULTS = ROOT / "bench" / "results" / "gpu"
TIME_IS_UP = "left for the next call: --minutes are spent"


class Skip(Exception):
    """A part that cannot be run here; the text says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """One figure or a few that belong together: `run` returns what its file will hold.

    `seconds` is a guess of how long it takes, so that it is not begun too late.
    """

    name: str
    kind: str
    run: Callable[[Suite], dict[str, Any]]
    seconds: float
    rank: int = 0


@dataclass
class Suite:
    """One call of the suite.  Times are in seconds; `began` and `clock` may be injected."""

    rig: Rig
    tools: Tools
    bench: Bench
    clock: Clock
    effort: Effort = field(default_factory=Effort)
    backend: str = "fused"
    results: Path = RESULTS
    minutes: float = 9.0
    fresh: bool = False
    now: Callable[[], float] = time.monotonic
    copied_bytes: int = 8 << 30
    product_size: int = 8192
    left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = self.now()
        self.about = {
            "commit": commit(),
            "source": source_digest(),
            "environment": environment(),
        }
        self._ceilings: dict[str, float] = {}

    def ceilings(self) -> dict[str, float]:
        """This run's own, measured once."""
        if not self._ceilings:
            self._ceilings = {
                "bytes_per_second": copy_bandwidth(self.bench, self.copied_bytes),
                "macs_per_second": matmul_rate(self.bench, self.product_size, self.rig.dtype),
            }
        return dict(self._ceilings)

    def limits(self) -> Ceilings:
        return Ceilings(**self.ceilings())

    def why_not(self, part: Part) -> str:
        """Why a part is not to be run now; "" where it is."""
        if not self.fresh and self.done(part):
            return "done: its result is there, of the same sources, command and GPU"
        if self.now() - self.began + part.seconds > 60 * self.minutes:
            self.left.append(part.name)
            return TIME_IS_UP
        return ""

    def done(self, part: Part) -> bool:
        """Whether a result of the same sources, command and GPU is there, or among the kept."""
        wanted = self.about["source"], command(part), self.about["environment"]["gpu"]
        for folder in {self.results, RESULTS}:
            path = folder / f"{part.name}.json"
            if path.exists():
                found = json.loads(path.read_text())
                finished = not {"skipped", "failed"} & set(found)
                made = found["source"], found["command"], found["environment"]["gpu"]
                if finished and made == wanted:
                    return True
        return False

    def run(self, part: Part) -> dict[str, Any]:
        """Run a part and write its file, also where it was skipped or failed.

        Raises Skip where it cannot be run, AssertionError where a result is wrong.
        """
        header = {"part": part.name, "kind": part.kind, "command": command(part)} | self.about
        header |= {"smi_before": nvidia_smi(), "began": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        started = self.now()
        # Others' warnings are kept with the result; pytest would make them errors.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                body = part.run(self)
            except torch.OutOfMemoryError as error:
                return self._stop(header, Skip(f"out of memory: {str(error).splitlines()[0]}"))
            except Skip as reason:
                return self._stop(header, reason)
            except AssertionError as error:
                self._write(header | {"failed": str(error)})
                raise
        said = sorted({f"{w.category.__name__}: {w.message}"[:300] for w in caught})
        tail = {"smi_after": nvidia_smi(), "took_seconds": self.now() - started, "warnings": said}
        return self._write(header | body | tail)

    def _stop(self, header: dict[str, Any], reason: Skip) -> dict[str, Any]:
        self._write(header | {"skipped": str(reason)})
        raise reason

    def _write(self, result: dict[str, Any]) -> dict[str, Any]:
        self.results.mkdir(parents=True, exist_ok=True)
        path = self.results / f"{result['part']}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=1, default=str) + "\n")
        partial.replace(path)
        return result


def command(part: Part) -> str:
    """What makes this part again, whatever else was asked for with it."""
    return f"pytest bench -m gpu --fresh --parts {part.name}"


def suite_on(device: torch.device, *, published: Path | None = None, **options: Any) -> Suite:
    """The suite as it is run on a device."""
    return Suite(
        Rig(device), tools_for(device, published), bench_on(device), clock_for(device), **options
    )
