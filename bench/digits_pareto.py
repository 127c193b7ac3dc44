"""Error against compute of every method on the digits: DDIM-20 and DDIM-50.

The shipped model and routers, three shares of the full run's multiply-accumulates, three seeds.
Nothing is timed, so that it may run beside other work: what time a method takes is measured by
`bench_methods.py`.  Writes every figure as JSON and draws both runs, of the methods in
`DRAWN`; the folder keeps what was fitted, searched and measured, so that an interrupted bench goes
on, and runs that the results have stay in them.  With `--only` the rows of the methods named are
measured again, and all others stay too:

    python bench/digits_pareto.py bench/results/digits-pareto.json docs/images FOLDER [STEPS ...]
        [--only search --only "search + fitted"]
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from digits_methods import GUIDANCE, Digits
from named_rows import merged

import l2c_rt as rt
from l2c_rt.comparison.comparison import Comparison
from l2c_rt.comparison.results import FULL
from l2c_rt.demo.classifier import train_classifier
from l2c_rt.demo.digits import load_digits
from l2c_rt.demo.shipped import load_demo_model
from l2c_rt.measure.machine import processor_name
from l2c_rt.untrusted.atomic_write import write_whole

STEPS = (20, 50)
COMPUTE = (0.85, 0.675, 0.5)
SEEDS = 3
IMAGES = 6
DRAWN = (
    "learned", "learned + fitted", "search + fitted", "noisiest first", "FORA", "TaylorSeer",
    "SmoothCache", "MagCache", "First-Block-Cache", "TeaCache", "SeaCache", "SpeCa", "ToCa",
    "FasterCache",
)  # fmt: skip
"""More lines than these cannot be told apart."""


def measure(steps: int, folder: Path, only: Sequence[str]) -> Comparison:
    """One run's comparison of all methods or of some, with a progress bar."""
    model = load_demo_model()
    return rt.compare(
        model, Digits(model, steps, COMPUTE, folder).entries(only), compute=COMPUTE,
        seeds=SEEDS, steps=steps, images=IMAGES, cfg_scale=GUIDANCE, rounds=0,
        folder=folder / "-".join(["comparison", *sorted(only)]),
        features=train_classifier(load_digits(), 0).features,
    )  # fmt: skip


def draw(comparison: Comparison, path: Path) -> None:
    """The picture of some of the methods."""
    rows = tuple(row for row in comparison.rows if row.method in (FULL, *DRAWN))
    replace(comparison, rows=rows).plot(path)


def main(
    results: Path, pictures: Path, folder: Path, runs: Sequence[int], only: Sequence[str]
) -> None:
    """Measure; after each run print its table and write figures and picture."""
    raw: dict[str, Any] = {
        "command": f"python bench/digits_pareto.py {results} {pictures} FOLDER [STEPS ...]",
        "machine": processor_name(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "runs": json.loads(results.read_text())["runs"] if results.exists() else {},
    }
    for steps in runs:
        comparison = measure(steps, folder / f"ddim-{steps}", only)
        if only:
            comparison = merged(comparison, raw["runs"][f"ddim-{steps}"])
        raw["runs"][f"ddim-{steps}"] = comparison.as_dict()
        write_whole(results, json.dumps(raw, indent=1, allow_nan=False) + "\n")
        draw(comparison, pictures / f"digits-pareto-{steps}.png")
        print(comparison, end="\n\n")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("results", "pictures", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("runs", nargs="*", type=int)
    parser.add_argument("--only", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parsed()
    main(arguments.results, arguments.pictures, arguments.folder, arguments.runs or STEPS,
         arguments.only)  # fmt: skip
