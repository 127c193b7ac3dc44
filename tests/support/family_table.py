"""docs/families.md, made of what every family shows: `python tests/support/family_table.py`."""

from __future__ import annotations

import re
import warnings

import diffusers
from diffusers_pipelines import PIPELINES
from family_results import (
    FAMILIES,
    GROUPS,
    block_result,
    branch_result,
    refused_arguments,
    short_names,
)

COMMAND = "python tests/support/family_table.py > docs/families.md"
HEAD = """\
# Families of diffusers

<!-- Compared by tests/adapters/own/test_families.py with what it finds; to write it again:
{command} -->

The models of diffusers {version} that the tests build from a tiny config and run, each by its own
forward ([how it works](how-it-works.md#models-without-an-adapter)). Another model with attention
and MLP modules in blocks runs too, and `compile(sites=[...])` takes any.

- *cut at*: the branches that a schedule decides about, and how many the tiny model has.
- *computed*: with nothing reused, every output is bitwise the model's.
- *cached*: with half of the branches reused at random, every output is bitwise that of a naive
  cache made of forward hooks; the next run is the same although the one before it was given up and
  all kept memory is NaN; and nothing of the model has changed.
- *blocks*: `granularity="block"`: with nothing reused bitwise, and merged within rounding of
  unmerged. The numbers are kept values, unmerged and merged, where every second evaluation is
  reused. "not merged" is a model whose forward reads values, with the operation that does.
  U-Nets are also cut at shells, for [DeepCache](loops.md#stable-diffusions-u-nets-deepcache).
- *pipelines*: classes in which the tests run it, with their own loops and schedulers.
"""
TAIL = """\
## What does not run
- A call with {refused}:
  attention would read and write what reused calls leave out. Call the model itself for it.
  `WanAnimate2Transformer3DModel` and `AnyFlowFARTransformer3DModel` are made for such calls.
- A model with a cache of diffusers, since each would reuse what the other computed:
  `model.disable_cache()`.
- Group offloading with a stream, which loads ahead in an order in which every module is called:
  `use_stream=False`. Other offloading runs, and loads only what is computed.
- FullyShardedDataParallel, whose wrapper holds the weights in pieces: the error has the line that
  gathers them.
- DeepCache with T2I adapters, which write to what the blocks of a U-Net hand on.
- `UNet1DModel`, whose blocks have no attention or MLP modules of known names:
  `sites=["*_blocks.*.attentions.*"]`.
"""
YES = {True: "bitwise", False: "**no**"}


def page() -> str:
    """The text of the page.  Runs every family that has not been run in this process."""
    refused = sorted({argument for name in FAMILIES for argument in refused_arguments(name)})
    parts = [HEAD.format(command=COMMAND, version=diffusers.__version__)]
    for title, families in GROUPS.items():
        parts += [f"\n## {title}\n", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
        parts += [_row(_cells(name)) for name in sorted(families)]
    named = ", ".join(f"`{argument}=`" for argument in refused)
    return "".join([*parts, "\n", TAIL.format(refused=named)])


COLUMNS = ["model", "cut at", "computed", "cached", "blocks", "pipelines", "not with"]


def tested_version(text: str) -> str:
    """The version of diffusers that a page is about."""
    found = re.search(r"models of diffusers (\S+) that", text)
    return found[1] if found else ""


def _cells(name: str) -> list[str]:
    branch, block = branch_result(name), block_result(name)
    kinds = ", ".join(short_names(branch.branches))
    cached = branch.cached and branch.differs and branch.twice and branch.untouched
    apart, together = block.slots
    merged = f"{apart} to {together}"
    if block.reason:
        operation = re.search(r"aten\.(\w+)", block.reason)
        merged = f"{apart}, not merged: `{operation[1] if operation else block.reason}`"
    return [
        f"`{FAMILIES[name].model}`",
        f"{kinds}: {branch.branches.total()}",
        YES[branch.full],
        YES[cached],
        merged if block.full and block.merged else YES[False],
        ", ".join(f"`{kind}`" for kind, tiny in PIPELINES.items() if tiny.family == name),
        ", ".join(f"`{argument}`" for argument in refused_arguments(name)),
    ]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(page(), end="")
