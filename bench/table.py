"""Makes the tables of README and docs from the raw results: `python bench/table.py [FILE]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any


def rows_of(results: dict[str, Any]) -> list[str]:
    lines = [
        "| run | backend | full s | cached s | speed-up | limit | share |",
        "|---|---|---|---|---|---|---|",
    ]
    for bench in results["benchmarks"]:
        facts = bench["extra_info"]
        if facts.get("group") != "cached / full":
            continue
        preset = facts["preset"].rpartition("/")[2]
        lines.append(
            f"| {preset} | {facts['backend']} | {median(facts['against_seconds']):.2f} | "
            f"{bench['stats']['median']:.2f} | {facts['ratio']:.3f}x | {facts['bound']:.3f}x | "
            f"{facts['share_of_bound']:.1%} |"
        )
    return lines


def peer_rows(results: dict[str, Any]) -> list[str]:
    """How many times as fast ours is as each peer, by case; "-" where a peer was not run."""
    cases = [b for b in results["benchmarks"] if b["extra_info"].get("group") == "peers"]
    names = list(dict.fromkeys(name for b in cases for name in b["extra_info"]["ratios"]))
    lines = [
        "| program | " + " | ".join(b["extra_info"]["case"] for b in cases) + " |",
        "|---|" + "---|" * len(cases),
        "| ours, s | " + " | ".join(f"{b['stats']['median']:.2f}" for b in cases) + " |",
    ]
    for name in names:
        per_case = [b["extra_info"]["ratios"].get(name) for b in cases]
        cells = [f"{median(several):.2f}x" if several else "-" for several in per_case]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines if cases else []


def delta_rows(results: dict[str, Any]) -> list[str]:
    """Whole runs and evaluations of U-ViT in the delta form against those in the ordinary form."""
    lines = [
        "| preset | whole run | evaluations in the delta form | those that compute nothing |",
        "|---|---|---|---|",
    ]
    for bench in results["benchmarks"]:
        facts = bench["extra_info"]
        if facts.get("group") != "delta form":
            continue
        parts = [facts[key] for key in ("inside", "nothing computed")]
        cells = [
            f"{len(part['evaluations'])}, {part['ratio']:.1f}x as fast "
            f"({mean(part['plain_ms']):.1f} ms to {mean(part['delta_ms']):.1f} ms)"
            for part in parts
        ]
        lines.append(f"| {facts['preset']} | {facts['ratio']:.3f}x as fast | {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


def method_rows(facts: dict[str, Any]) -> list[str]:
    """Each method's time against the bound that its counted arithmetic sets."""
    lines = [
        "| method | setting | route | computed | speed-up | bound | share of it |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, timed in facts.get("methods", {}).items():
        lines.append(
            f"| {name} | {timed['setting']} | {timed['backend']} | {timed['computed']:.1%} | "
            f"{timed['speedup'][1]:.2f}x | {timed['bound']:.2f}x | {timed['of_bound']:.2f} |"
        )
    below = ", ".join(facts.get("below", ())) or "none"
    unscored = ", ".join(
        f"{name} {timed['without_scores']:.2f}" for name, timed in facts.get("methods", {}).items()
        if timed.get("without_scores", timed["of_bound"]) < timed["of_bound"]
    )  # fmt: skip
    lines += ["", f"Below 0.95 of the bound: {below}."]
    lines += [f"With nothing counted for scores of tokens: {unscored}."] if unscored else []
    return lines if facts.get("methods") else []


def machine_of(results: dict[str, Any]) -> str:
    machine = results["machine_info"]
    return (
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"Python {machine['python_version']}; `{machine['command']}`"
    )


def main() -> None:
    default = Path(__file__).parent / "results" / "cpu.json"
    results = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else default).read_text())
    parts = [*rows_of(results), "", *peer_rows(results), "", *delta_rows(results), ""]
    for bench in results["benchmarks"]:
        parts += [*method_rows(bench["extra_info"]), ""]
    print("\n".join([*parts, machine_of(results)]))


if __name__ == "__main__":
    main()
