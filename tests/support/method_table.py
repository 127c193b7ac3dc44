"""docs/methods.md, made of what every method does.

`PYTHONPATH=bench python tests/support/method_table.py`, which takes some ten minutes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from family_results import FAMILIES
from method_results import MethodResult, on_family, on_toy

from l2c_rt import methods
from l2c_rt.methods.deciding import Deciding

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
BEGIN, END = "<!-- made by tests/support/method_table.py -->\n", "<!-- end -->\n"
PLANS: Mapping[str, str] = {
    # method: what it decides by; what it keeps; what it needs
    "block-caching": "calibrated changes of each block | what blocks add | a calibration",
    "dbcache": "change of what the first blocks add | what the middle blocks add | nothing",
    "dbprune": "change of what enters each block | what every block adds | nothing",
    "deepcache": "every N-th evaluation | one tensor of the U-Net's way up | a U-Net",
    "delta-dit": "every N-th evaluation, early and late | what a range of blocks adds | nothing",
    "duca": "ToCa, every other time no block at all | outputs, scores, ages | DiT or U-ViT",
    "easycache": "estimated change of the output | output less input | output like input",
    "every-n": "every N-th evaluation from the first | outputs | nothing",
    "fastercache": "timestep and counts | two outputs, one spectrum | timesteps",
    "fastercache-script": "counts | two outputs, one spectrum | halves in one batch",
    "first-block-cache": "change of what the first block adds | what the others add | nothing",
    "fora": "every N-th evaluation from the last | outputs | nothing",
    "guidance-interval": "timestep | nothing | timesteps, halves in one batch",
    "hicache": "every N-th evaluation, Hermite prediction | order + 1 outputs | nothing",
    "magcache": "calibrated ratios of norms | what all blocks add | a calibration",
    "pab": "kind of attention, timestep, counts | outputs of attention | timesteps",
    "seacache": "filtered latents | what all blocks add, twice | latents in a grid",
    "smoothcache": "calibrated errors by kind | outputs | a calibration",
    "speca": "error of the last prediction | order + 1 outputs | nothing",
    "steps-mask": "a mask | what the middle blocks add | nothing",
    "taylorseer": "every N-th evaluation, Taylor prediction | order + 1 outputs | nothing",
    "taylorseer-diffusers": "counts, Taylor prediction by module | order + 1 outputs | nothing",
    "teacache": "change of a modulated input | what all blocks add | a polynomial",
    "toca": "changing interval, scores of tokens | outputs, scores, ages | DiT or U-ViT",
}
ROUTES = {"reference": "rows", "fused": "rows", "cuda": "graphs"}


def table(families: Iterable[str] = tuple(sorted(FAMILIES))) -> str:
    """The tables of the page.  Runs every method that has not been run in this process."""
    lines = ["| method | decides by | when | keeps | needs |", "| --- | --- | --- | --- | --- |"]
    for name in sorted(methods.names()):
        by, keeps, needs = PLANS[name].split(" | ")
        when = "at run time" if is_dynamic(name) else "before the run"
        lines.append(f"| {name} | {by} | {when} | {keeps} | {needs} |")
    head = "| method | DiT: reference | fused | CUDA | U-ViT: reference | fused | CUDA |"
    lines += ["", head, f"|{' --- |' * 7}"]
    lines += [toy_row(name) for name in sorted(methods.names())]
    lines += ["", "| method | families that run it | the others |", "| --- | --- | --- |"]
    lines += [family_row(name, list(families)) for name in sorted(methods.names())]
    return "\n".join(lines) + "\n"


def is_dynamic(name: str) -> bool:
    return issubclass(getattr(methods, methods._HOMES[name][0]), Deciding)


def toy_row(name: str) -> str:
    cells = [
        _cell(on_toy(name, kind, backend), ROUTES[backend])
        for kind in ("dit", "uvit")
        for backend in ROUTES
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _cell(result: MethodResult, route: str) -> str:
    if result.reason:
        return f"no: {result.reason}"
    return ("own forward" if result.backend == "own" else route) if result.cached else "**nothing**"


def family_row(name: str, families: list[str]) -> str:
    results = {family: on_family(name, family) for family in families}
    runs = [family for family, result in results.items() if result.cached]
    others: dict[str, list[str]] = {}
    for family, result in results.items():
        if not result.cached:
            why = result.reason or "reuses nothing at the timesteps of the tiny run"
            others.setdefault(why, []).append(family)
    told = "; ".join(f"{_some(names, len(families))}: {why}" for why, names in others.items())
    return f"| {name} | {len(runs)} of {len(families)} | {told} |"


def _some(names: list[str], of: int) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{len(names)} of {of}"


def page(text: str) -> str:
    """The page with its tables written again."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
