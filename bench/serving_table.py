"""Makes the figures of docs/serving.md from the files of bench/serving.py and its simulation.

python bench/serving_table.py            print them
python bench/serving_table.py --write    and put them, with a picture, into the page
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "serving.md"
PICTURE = ROOT / "docs" / "images" / "serving.png"
BEGIN, END = "<!-- results: made by bench/serving_table.py -->", "<!-- end of results -->"
MODELS = {
    "digits": "The digits model, DDIM-20",
    "12x384": "A DiT of 12 blocks and width 384 with 16 tokens, DDIM-20",
}
SERVERS = {"one at a time": "#E69F00", "static batches": "#333333", "engine": "#009E73"}
LOAD, GOAL_LOAD = "95%", "80%"

Result = dict[str, Any]


def load(folder: Path = RESULTS) -> dict[str, Result]:
    """The measured results, by model, and the simulated one."""
    names = {name: f"serving-{name}.json" for name in (*MODELS, "simulated")}
    files = {name: folder / file for name, file in names.items()}
    return {name: json.loads(f.read_text()) for name, f in files.items() if f.exists()}


def tables(results: Mapping[str, Result]) -> str:
    """Everything between the page's two marks."""
    lines: list[str] = []
    for name, title in MODELS.items():
        if name in results:
            lines += [*measured(title, results[name]), ""]
    if "simulated" in results:
        lines += [*simulated(results["simulated"]), ""]
    return "\n".join(lines).rstrip("\n")


def measured(title: str, result: Result) -> list[str]:
    """A model: what batches cost, then throughput and latency, then the goals."""
    lines = [
        f"### {title}",
        "",
        f"{result['cores']} {result['machine']} CPU cores, {result['threads']} thread, batches of "
        f"up to {result['max_batch']}, {result['requests']} requests at each load; the load "
        f"average was {result['load_average'][0]:.1f} before. Seconds of CPU time of a run by its "
        "images, and images a second beside those of one:",
        "",
        *curve_rows(result),
        "",
        "| model | load | requests a second | p50, s | p99, s |",
        "|---|---|---|---|---|",
        *(row for key in ("cached", "uncached") for row in load_rows(key, result[key])),
        "",
        f"Each cell: {', '.join(SERVERS)}.",
    ]
    lines += [said for key in ("cached", "uncached") for said in goals(key, result[key])]
    if overhead := result.get("overhead"):
        lines.append(
            f"- A tick beside its evaluation, 64 requests running: "
            f"{overhead['tick_beside_evaluation_us']:.0f} us (the median)"
        )
    return lines


def curve_rows(result: Result) -> list[str]:
    sizes = list(result["cached"]["cost_curve_s"])
    lines = ["| images | " + " | ".join(sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for key in ("cached", "uncached"):
        curve = result[key]["cost_curve_s"]
        cells = [f"{curve[n]:.3f}, {int(n) * curve[sizes[0]] / curve[n]:.2f}x" for n in sizes]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return lines


def load_rows(key: str, model: Result) -> Iterator[str]:
    for share, rows in model["loads"].items():
        cells = [
            ", ".join(f"{rows[name][field]:{form}}" for name in SERVERS)
            for field, form in (("requests_per_s", ".1f"), ("p50_s", ".2f"), ("p99_s", ".2f"))
        ]
        yield f"| {key} | {share} | " + " | ".join(cells) + " |"


def goals(key: str, model: Result) -> Iterator[str]:
    """What the engine gives over the two others, in a sentence each."""
    rates = {name: row["requests_per_s"] for name, row in model["loads"][LOAD].items()}
    late = {name: row["p99_s"] for name, row in model["loads"][GOAL_LOAD].items()}
    yield (
        f"- {key}, throughput at {LOAD}: {rates['engine'] / rates['one at a time']:.2f}x of one at "
        f"a time; p99 at {GOAL_LOAD}: {late['engine'] / late['static batches']:.2f}x of static "
        "batches"
    )


def simulated(result: Result) -> list[str]:
    """The rules on measured curves, without noise of a machine."""
    rows = result["rows"]
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    lines = [
        "### Simulated",
        "",
        "The engine's own scheduler on measured cost curves, no model run, "
        f"{result['seeds']} times {result['requests']} requests. p50 and p99 in seconds:",
        "",
        "| machine | model | load | " + " | ".join(policies) + " |",
        "|---" * (len(policies) + 3) + "|",
    ]
    cells: dict[tuple[str, str, float], dict[str, str]] = {}
    for row in rows:
        place = (row["machine"], row["model"], row["load"])
        cells.setdefault(place, {})[row["policy"]] = f"{row['p50_s']:.3f}, {row['p99_s']:.3f}"
    for (machine, model, share), shown in cells.items():
        texts = " | ".join(shown[policy] for policy in policies)
        lines.append(f"| {machine} | {model} | {share:.0%} | {texts} |")
    return lines


def draw(result: Result, path: Path = PICTURE) -> None:
    """Throughput and latency by load, of the model on its schedule and uncached."""
    from l2c_rt.figures import GRID, new_figure, save_figure

    figure = new_figure(8.0, 5.6)
    for row, key in zip(figure.subplots(2, 2, sharex=True), ("cached", "uncached"), strict=True):
        loads = result[key]["loads"]
        shares = [float(share.rstrip("%")) for share in loads]
        for name, colour in SERVERS.items():
            several = [loads[share][name] for share in loads]
            row[0].plot(shares, [s["requests_per_s"] for s in several], "o-", color=colour,
                        label=name)  # fmt: skip
            row[1].plot(shares, [s["p99_s"] for s in several], "o-", color=colour)
            row[1].plot(shares, [s["p50_s"] for s in several], "o--", color=colour)
        row[0].set_ylabel(f"{key}\nrequests per second")
        row[1].set_ylabel("seconds: p99, and dashed p50")
        row[1].set_yscale("log")
        for axis in row:
            axis.grid(color=GRID, linewidth=0.6)
            axis.set_xticks(shares, [f"{share:g} %" for share in shares])
        row[0].set_ylim(bottom=0)
        row[1].yaxis.set_major_formatter("{x:g}")
        row[1].yaxis.set_minor_formatter("{x:g}")
    for axis in row:
        axis.set_xlabel("load, of the engine's capacity")
    figure.axes[0].legend(frameon=False)
    save_figure(figure, path, dpi=140, description=f"From {result['requests']} requests at a load")


def page(text: str, shown: str) -> str:
    """The page with what stands between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the page has no marks {BEGIN} and {END}")
    return "\n\n".join([before + BEGIN, shown, END]) + after


def main(words: list[str]) -> None:
    results = load()
    print(tables(results))
    if "--write" in words:
        PAGE.write_text(page(PAGE.read_text(), tables(results)))
        draw(results["12x384"])


if __name__ == "__main__":
    main(sys.argv[1:])
