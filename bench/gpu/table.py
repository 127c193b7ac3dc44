"""Makes docs/performance.md's tables from results.

python bench/gpu/table.py [FILE or FOLDER ...]           print them
python bench/gpu/table.py --write [FILE or FOLDER ...]   and put them, with plots, into the page
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH), str(BENCH.parent / "tests" / "support")]

from gpu.models import CASES, IMAGES  # noqa: E402
from gpu.peers import PEERS  # noqa: E402
from gpu.results import (  # noqa: E402
    Result,
    Results,
    best,
    files_in,
    lead,
    milliseconds,
    over_floor,
    share_of_bound,
)
from gpu.targets import NOT_MEASURED, target_table  # noqa: E402

PAGE = BENCH.parent / "docs" / "performance.md"
PLOTS = BENCH.parent / "docs" / "performance"
BEGIN, END = "<!-- results: made by bench/gpu/table.py -->", "<!-- end of results -->"


def tables(results: Results) -> str:
    """Everything between the page's two marks."""
    parts = [
        "### Targets\n\n" + "\n".join(target_table(results)),
        "### Whole runs\n\n" + "\n".join(run_table(results)),
        "### Peers\n\n" + "\n".join(peer_table(results)),
        "### Ceilings\n\n" + "\n".join(ceiling_table(results)),
    ]
    if not results.by_part:
        parts.insert(0, "**No figure has been measured on a GPU yet.**")
    else:
        parts.insert(0, machine(results))
    if results.missing:
        lines = [f"- `{part}`: {why}" for part, why in sorted(results.missing.items())]
        parts.append("### Not measured, and why\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def machine(results: Results) -> str:
    """Where the figures come from; several lines if they come from several machines or sources."""
    lines = set()
    for result in results.by_part.values():
        env, smi = result["environment"], result["environment"]["nvidia_smi"]
        gpu = env["gpu"]["name"] if env["gpu"] else "no GPU"
        lines.add(
            f"{gpu}, driver {smi.get('driver_version', 'unknown')}, SM clock at most "
            f"{smi.get('clocks.max.sm', 'unknown')}, CUDA {env['cuda']}, torch {env['torch']}, "
            f"triton {env['triton']}, sources {result['source']} (commit {result['commit'][:12]})"
        )
    return "\n".join(f"- {line}" for line in sorted(lines))


def run_table(results: Results) -> list[str]:
    lines = [
        "| case | images | cached ms | uncached ms | speed-up | share of bound | floor ms | over "
        "floor | products alone ms | images/s | idle |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        for images in IMAGES:
            run = results.run(case.name, images)
            cells = _run_cells(run) if run else [NOT_MEASURED] + 8 * [""]
            lines.append(f"| {case.name} | {images} | {' | '.join(cells)} |")
    return lines


def _run_cells(run: Result) -> list[str]:
    cached, full = run["samples"]["cached"], run["samples"]["full"]
    speedup, bound = share_of_bound(run) * run["bound"], run["bound"]
    one_graph = run["samples"].get("trajectory")
    told = f"; one graph {median(one_graph) * 1e3:.2f}" if one_graph else ""
    idle = run["profile"].get("idle_share")
    return [
        milliseconds(cached) + told,
        milliseconds(full),
        f"{speedup:.3f}x of {bound:.3f}x",
        f"{speedup / bound:.3f}",
        f"{run['floors']['kernelwise'] * 1e3:.2f}",
        f"{over_floor(run):.2f}x",
        f"{run['products']['schedule_seconds'] * 1e3:.2f}",
        f"{run['images'] / median(run['samples'][best(run)]):.1f}",
        "" if idle is None else f"{100 * idle:.1f} %",
    ]


def peer_table(results: Results) -> list[str]:
    """Milliseconds of the peer, and how many times as fast our cached run was beside it."""
    measured = [r["part"] for r in results.of("peer")]
    lines = [
        "| case | images | " + " | ".join(PEERS) + " |",
        "|---|---|" + "---|" * len(PEERS),
    ]
    for case in CASES:
        for images in IMAGES:
            cells = [_peer_cell(results.peer(case.name, images, name)) for name in PEERS]
            if any(part.startswith(f"{case.name}.n{images}.") for part in measured):
                lines.append(f"| {case.name} | {images} | {' | '.join(cells)} |")
    return lines if measured else [NOT_MEASURED.capitalize() + "."]


def _peer_cell(result: Result | None) -> str:
    if result is None:
        return NOT_MEASURED
    return f"{milliseconds(result['samples'][result['peer']])}; {lead(result):.2f}x"


def ceiling_table(results: Results) -> list[str]:
    """The ceilings that each part measured for itself, as a range."""
    found = [r["ceilings"] for r in results.by_part.values() if "ceilings" in r]
    if not found:
        return [NOT_MEASURED.capitalize() + "."]
    copies = sorted({c["bytes_per_second"] for c in found})
    products = sorted({c["macs_per_second"] for c in found})
    return [
        "| | lowest | highest |",
        "|---|---|---|",
        f"| copy, TB/s read plus written | {copies[0] / 1e12:.2f} | {copies[-1] / 1e12:.2f} |",
        f"| product, TFLOP/s | {2 * products[0] / 1e12:.0f} | {2 * products[-1] / 1e12:.0f} |",
        *_node_rows(results),
    ]


def _node_rows(results: Results) -> list[str]:
    return [
        f"| node of a graph of {count} empty kernels{' (dependent)' * (kind != 'nodes')}, us | "
        f"{facts['seconds_per_node'] * 1e6:.2f} | |"
        for result in results.of("nodes")
        for kind in ("nodes", "dependent_nodes")
        for count, facts in result.get(kind, {}).items()
    ]


def page(text: str, results: Results, pictures: list[str]) -> str:
    """The page with what stands between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page has no marks {BEGIN} and {END}")
    shown = "\n\n".join([tables(results), *pictures])
    return f"{before}{BEGIN}\n\n{shown}\n\n{END}{after}"


def main(words: list[str]) -> None:
    places = [word for word in words if not word.startswith("--")]
    kept = BENCH / "results" / "gpu"
    if not places and kept.is_dir():
        places = [str(kept)]
    results = Results(files_in(places))
    print(tables(results))
    if "--write" in words:
        from gpu.plots import draw_all

        drawn = draw_all(results, PLOTS)
        pictures = [f"![{path.stem}](performance/{path.name})" for path in drawn]
        PAGE.write_text(page(PAGE.read_text(), results, pictures))


if __name__ == "__main__":
    main(sys.argv[1:])
