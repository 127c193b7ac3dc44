"""Makes the tables of docs/performance.md from the GPU suite's files.

python bench/gpu_table.py [FILE or FOLDER ...]           print them
python bench/gpu_table.py --write [FILE or FOLDER ...]   and put them, with plots, into the page
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from l2c_rt.measure.interleaved import ratios, spread

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "gpu"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- results: made by bench/gpu_table.py -->", "<!-- end of results -->"

Result = dict[str, Any]


def load(places: Iterable[Path]) -> list[Result]:
    """The results in the given files and folders, by case and images."""
    files = [file for p in places for file in ([p] if p.suffix else p.glob("*.json"))]
    results = [json.loads(file.read_text()) for file in files]
    return sorted(results, key=lambda r: (r.get("case", ""), r.get("images", 0), r["id"]))


def of_kind(results: list[Result], kind: str) -> list[Result]:
    """Those of one kind that were measured."""
    return [r for r in results if r["kind"] == kind and "failed" not in r]


def tables(results: list[Result]) -> str:
    """Everything between the page's two marks; a table without a row is left out."""
    sections = {
        "Whole runs": run_table(of_kind(results, "run")),
        "Peers": peer_table(of_kind(results, "peer")),
        "The machine": machine_table(results),
        "Failed": [f"- `{r['id']}`: {r['failed'].strip().splitlines()[-1]}"
                   for r in results if "failed" in r],
    }  # fmt: skip
    shown = [f"### {title}\n\n" + "\n".join(lines) for title, lines in sections.items() if lines]
    if not results:
        return "No figure has been measured on a GPU yet."
    return "\n\n".join(["\n".join(machines(results)), *shown])


def machines(results: list[Result]) -> list[str]:
    """Where the figures come from: a line for each machine and commit."""
    lines = set()
    for result in results:
        device, versions = result["device"], result["versions"]
        lines.add(
            f"- {device['name']}, driver {device.get('driver')}, SM clock at most "
            f"{device.get('sm_clock_limit_mhz')} MHz, CUDA {versions['cuda']}, "
            f"torch {versions['torch']}, triton {versions['triton']}, commit {result['commit']}"
        )
    return sorted(lines)


def run_table(runs: list[Result]) -> list[str]:
    """The delta form has a column where it was measured."""
    delta = ["delta form ms"] * any("delta" in run["samples"] for run in runs)
    rows = []
    for run in runs:
        samples, limit, floor = run["samples"], run["limit"], run["floors"]["kernelwise"]
        speedup, cached = median(ratios(samples["full"], samples["cached"])), samples["cached"]
        idle = run["profile"].get("idle_share")
        rows.append([
            run["case"], run["images"], milliseconds(cached),
            *(milliseconds(samples[name]) if name in samples else ""
              for name in ("trajectory", *["delta"] * len(delta))),
            milliseconds(samples["full"]), f"{speedup:.3f}x of {limit:.3f}x",
            f"{speedup / limit:.3f}", f"{floor * 1e3:.2f}", f"{median(cached) / floor:.2f}x",
            f"{run['images'] / median(cached):.1f}", "" if idle is None else f"{idle:.1%}",
        ])  # fmt: skip
    return markdown(
        ["case", "images", "cached ms", "one graph ms", *delta, "uncached ms", "speed-up",
         "share of limit", "floor ms", "over floor", "images/s", "idle"], rows
    )  # fmt: skip


def peer_table(results: list[Result]) -> list[str]:
    """Milliseconds of the peer, and how many times as fast our cached run was beside it."""
    names = list(dict.fromkeys(result["peer"] for result in results))
    rows: dict[tuple[str, int], dict[str, str]] = {}
    for result in results:
        samples, name = result["samples"], result["peer"]
        lead = median(ratios(samples[name], samples["cached"]))
        row = rows.setdefault((result["case"], result["images"]), {})
        row[name] = f"{milliseconds(samples[name])}; {lead:.2f}x"
    cells = [[*key, *(row.get(name, "") for name in names)] for key, row in rows.items()]
    return markdown(["case", "images", *names], cells)


def machine_table(results: list[Result]) -> list[str]:
    """Ceilings as every measurement had them, kernels (a) and (b), nodes, first images."""
    rows: list[list[Any]] = []
    rates = [r["ceilings"] for r in results if "ceilings" in r]
    for title, field, factor in (("copy, TB/s read plus written", "bytes_per_second", 1e-12),
                                 ("product, TFLOP/s", "macs_per_second", 2e-12)):  # fmt: skip
        values = sorted(factor * rate[field] for rate in rates)
        rows += [[title, f"{values[0]:.3g} to {values[-1]:.3g}"]] if values else []
    for result in of_kind(results, "row_kernels"):
        for rate in result["rates"]:
            share = rate["bytes_per_second"] / result["ceilings"]["bytes_per_second"]
            title = f"kernel ({rate['kernel']}), {rate['count']} reused, {rate['batch']} rows"
            rows.append([f"{title}, share of the copy", f"{share:.1%}"])
    for result in of_kind(results, "nodes"):
        for kind in ("nodes", "dependent_nodes"):
            for count, cost in result.get(kind, {}).items():
                title = f"one of {count} {kind.replace('_', ' ')} of a graph, us"
                rows.append([title, f"{cost['seconds_per_node'] * 1e6:.2f}"])
    for result in of_kind(results, "start"):
        for name, first in result["first_image"].items():
            rows.append([f"compile to first image, {name}, s", f"{first['seconds']:.1f}"])
    return markdown(["", "measured"], rows)


def milliseconds(samples: list[float]) -> str:
    """Median with quartiles."""
    of = spread(samples)
    return f"{of.median * 1e3:.2f} ({of.low * 1e3:.2f} to {of.high * 1e3:.2f})"


def markdown(titles: list[str], rows: list[list[Any]]) -> list[str]:
    """A table, or nothing where it has no row."""
    lines = [titles, ["---"] * len(titles), *rows] if rows else []
    return [f"| {' | '.join(map(str, cells))} |" for cells in lines]


def page(text: str, results: list[Result], pictures: Iterable[Path]) -> str:
    """The page with what stands between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the page has no marks {BEGIN} and {END}")
    links = [f"![{path.stem}]({path.parent.name}/{path.name})" for path in pictures]
    return "\n\n".join([before + BEGIN, tables(results), *links, END]) + after


def main(words: list[str]) -> None:
    places = [Path(word) for word in words if not word.startswith("--")]
    results = load(places or [RESULTS])
    print(tables(results))
    if "--write" in words:
        from gpu.plots import draw_all

        pictures = draw_all(of_kind(results, "run"), of_kind(results, "peer"), PAGE.with_suffix(""))
        PAGE.write_text(page(PAGE.read_text(), results, pictures))


if __name__ == "__main__":
    main(sys.argv[1:])
