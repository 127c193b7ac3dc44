"""Every measured figure of README.md and docs/learning.md is the one in bench/results/."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

from l2c_rt import presets
from l2c_rt.measure.interleaved import ratios

ROOT = Path(__file__).parents[2]
NAMES = ("learned", "noisiest first", "every-N", "random")
UNITS = r"(?:x|dB|%|ms|us|s|T|MB|MiB|bytes)"
A_FIGURE = re.compile(rf"(?<![\w.-])\d[\d,.]*\s?{UNITS}(?![\w-])|(?<![\w.-])\d+\.\d+(?![\w.-])")
NOT_MEASURED = re.compile(
    r"```.*?```|<img [^>]*>|\]\([^)]*\)|\b\d{4}\.\d{5}\b|Python 3\.10 to 3\.13|torch 2\.11 or newer"
)
"""Code, pictures, links, numbers of papers, versions."""


def page(name: str) -> str:
    """The page's text on one line: sentences are wrapped, table rows are not."""
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def results(name: str) -> Any:
    return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())


def benchmarks(group: str) -> list[tuple[dict[str, Any], float]]:
    """What each benchmark of a group recorded, and the median of its seconds."""
    every = results("cpu")["benchmarks"]
    return [
        (bench["extra_info"], bench["stats"]["median"])
        for bench in every
        if bench["extra_info"]["group"] == group
    ]


PROGRAMS = {
    "fused, uncached": "l2c_rt, uncached",
    "variants, packed": "its block's variants compiled, packed products",
    "published": "the published program",
    "cache-dit, compiled": "cache-dit, compiled, equal compute",
    "compiled": "`torch.compile`, uncached",
}
"""Of bench/cpu/programs.py, as README.md calls them."""


def peers(case: str) -> tuple[dict[str, Any], float]:
    """What the benchmark of a case recorded, and our own median."""
    (found,) = (both for both in benchmarks("peers") if both[0]["case"] == case)
    return found


def peer_rows() -> Iterator[str]:
    facts, seconds = peers("w384-float32-n1")
    yield f"| **l2c_rt, cached** | {seconds:.2f} | |"
    for name, text in PROGRAMS.items():
        yield (
            f"| {text} | {median(facts['samples'][name]):.2f} "
            f"| {median(facts['ratios'][name]):.2f}x |"
        )


def peer_sentences() -> Iterator[str]:
    name = "variants, packed"
    ratio = {case: median(peers(f"{case}-n1")[0]["ratios"][name])
             for case in ("w768-float32", "w384-bfloat16", "w768-bfloat16")}  # fmt: skip
    yield (
        f"Against the compiled variants, at width 768 {ratio['w768-float32']:.2f}x, in bfloat16 "
        f"{ratio['w384-bfloat16']:.2f}x and {ratio['w768-bfloat16']:.2f}x"
    )
    ((first, _),) = benchmarks("first run")
    yield f"Compiling and a first run take {first['ratio']:.2f}x a later run"


def run_sentences() -> Iterator[str]:
    _, _, _, (facts, seconds) = benchmarks("cached / full")
    assert (facts["preset"], facts["backend"]) == ("l2c/dit-xl-2-256/ddim-50", "fused")
    yield (
        f"DDIM-50, one image: {median(facts['against_seconds']):.2f} s becomes {seconds:.2f} s, "
        f"**{facts['ratio']:.3f}x of at most {facts['bound']:.3f}x**"
    )
    machine = results("cpu")["machine_info"]
    yield f"on an {machine['processor']} with torch {machine['torch'].partition('+')[0]},"
    yield f"measured on {machine['cores']} CPU cores"


def overhead_sentences() -> Iterator[str]:
    both = [facts for facts, _ in benchmarks("runtime's own Python")]
    seconds = max(facts["seconds_per_evaluation"] for facts in both)
    share = max(facts["share"] for facts in both)
    yield f"at most {1e6 * seconds:.0f} us of Python per step, {100 * share:.2f} % of its time"
    ((memory, _),) = benchmarks("memory")
    assert memory["growth_bytes"] == 0
    yield "no memory growth from run 20 to run 200"


def demo_results(steps: int) -> dict[str, dict[str, Any]]:
    """The schedules of one number of steps that reuse as much as the headline says, and `full`."""
    every = results("digits-demo")["results"]
    return {r["name"]: r for r in every if r["steps"] == steps and r["ratio"] in (0.0, 0.45)}


def demo_sentences() -> Iterator[str]:
    psnr = {name: f"{fmean(r['psnr']):.1f}" for name, r in demo_results(50).items() if r["psnr"]}
    yield (
        "DDIM-50, 45 % of cacheable branches reused, PSNR to the full run: "
        f"**learned {psnr['learned']} dB**, noisiest-first {psnr['noisiest first']}, "
        f"every-N {psnr['every-N']}, random {psnr['random']}"
    )


def leads() -> dict[float, list[float]]:
    """By how many dB the learned schedule leads the best rule, for each share of reuse."""
    every: dict[float, list[float]] = {}
    for cell in results("digits-quality")["cells"]:
        psnr = {name: fmean(cell["psnr_db"][name]) for name in NAMES}
        lead = psnr.pop("learned") - max(psnr.values())
        every.setdefault(cell["reuse_of_cached_evaluations"], []).append(lead)
    return every


def lead_sentences() -> Iterator[str]:
    assert list(leads()) == [0.25, 0.45, 0.65]
    assert all(lead > 0 for some in leads().values() for lead in some)
    yield f"**In all {sum(map(len, leads().values()))} settings tried**"
    low, middle, high = (f"{min(some):.1f} to {max(some):.1f}" for some in leads().values())
    cells = results("digits-quality")["cells"]
    seeds, steps = ({cell[key] for cell in cells} for key in ("seed", "steps"))
    yield (
        f"{len(seeds)} seeds, {' and '.join(map(str, sorted(steps)))} steps: "
        f"lead over the best rule {low} dB at 25 % reuse, {middle} at 45 %, {high} at 65 %"
    )


def digits_rows() -> Iterator[str]:
    for steps in (20, 50):
        for name, result in demo_results(steps).items():
            psnr = f"{fmean(result['psnr']):.1f}" if result["psnr"] else "-"
            yield (
                f"| {steps} | {name} | {100 * result['reuse']:.1f} % | {psnr} "
                f"| {result['frechet']:.2f} | {100 * result['accuracy']:.0f} % |"
            )


def gpu_sentences() -> Iterator[str]:
    runs = [results(f"gpu/run-dit-xl-2-256.ddim-50-n{images}") for images in (1, 32)]
    speedups = [run_ratio(run["samples"], "full") for run in runs]
    full, cached = (1e3 * median(runs[0]["samples"][name]) for name in ("full", "cached"))
    names = ("published-bf16", "strong")
    peers = {n: results(f"gpu/peer-dit-xl-2-256.ddim-50-n1-{n}")["samples"] for n in names}
    yield f"**On an {runs[0]['device']['name'].removeprefix('NVIDIA ')}**"
    yield (
        f"DiT-XL/2, 256 pixels, bfloat16, DDIM-50: {full:.1f} ms becomes {cached:.1f} ms for one "
        f"image, {speedups[0]:.3f}x of at most {runs[0]['limit']:.3f}x, and "
        f"{speedups[1]:.3f}x for 32; torch.compile with graphs by hand, same schedule, takes "
        f"{run_ratio(peers['strong'], 'strong'):.2f}x as long, the published program "
        f"{run_ratio(peers['published-bf16'], 'published-bf16'):.1f}x |"
    )


def run_ratio(samples: dict[str, list[float]], name: str) -> float:
    """How many times as fast the cached run is: the median over rounds."""
    return median(ratios(samples[name], samples["cached"]))


def expected() -> list[str]:
    return [
        *peer_rows(), *peer_sentences(), *run_sentences(), *overhead_sentences(),
        *demo_sentences(), *lead_sentences(), *gpu_sentences(),
    ]  # fmt: skip


def test_the_readme_says_what_was_measured() -> None:
    readme = page("README.md")
    missing = [said for said in expected() if said not in readme]
    assert not missing, "README.md does not say this of bench/results/"


def test_no_other_figure_is_in_the_readme() -> None:
    readme = NOT_MEASURED.sub(" ", page("README.md"))
    for said in expected():
        readme = readme.replace(said, " ")
    assert not A_FIGURE.findall(readme), "these come from no file under bench/results/"


def test_the_digits_in_the_page_on_learning_are_those_of_the_demo() -> None:
    learning = page("docs/learning.md")
    assert len(list(digits_rows())) == 10
    assert all(row in learning for row in digits_rows())
    assert learning.count("| 100 % |") == 10
    high = leads()[0.65]
    assert f"At 65 % it is {min(high):.1f} to {max(high):.1f} dB" in learning


def description(picture: str) -> str:
    """The figures in a picture, which its PNG file has as text."""
    content = (ROOT / "docs" / "images" / picture).read_bytes()
    _, found, rest = content.partition(b"tEXtDescription\0")
    assert found, f"{picture} has no description: draw it with l2c_rt.figures.save_figure"
    # The four bytes before the chunk's name are its length, which counts "Description\0" as well.
    length = int.from_bytes(content[content.index(found) - 4 :][:4], "big") - len("Description ")
    return rest[:length].decode("latin-1")


def test_the_digits_picture_shows_the_psnr_of_the_demo() -> None:
    """Drawn as samples.png by `run_demo(folder, DemoSettings(steps=(50,)))`."""
    of_50 = demo_results(50)
    psnr = {name: f"{name} PSNR {fmean(of_50[name]['psnr']):.1f} dB" for name in NAMES}
    reused = f"{100 * of_50['learned']['reuse']:.1f} % reused"
    assert description("digits-ddim-50.png") == f"DDIM-50, {reused}: {', '.join(psnr.values())}"


def test_the_schedule_picture_shows_the_preset() -> None:
    """Drawn by `presets.load("l2c/dit-xl-2-256/ddim-20").plot(path)`."""
    compute = presets.load("l2c/dit-xl-2-256/ddim-20").compute
    assert description("schedule-ddim-20.png") == (
        f"DiT DDIM {len(compute)} evaluations: {100 * compute.mean():.1f} % of branches computed, "
        f"{len({row.tobytes() for row in compute})} distinct evaluations"
    )


def test_the_picture_of_the_peers_shows_their_medians() -> None:
    """Drawn by bench/peers_plot.py."""
    facts, seconds = peers("w384-float32-n1")
    programs = {"l2c_rt, fused": seconds} | {n: median(s) for n, s in facts["samples"].items()}
    fastest_first = sorted(programs, key=lambda name: programs[name])
    said = ", ".join(f"{name} {programs[name]:.2f} s" for name in fastest_first)
    assert description("cpu-peers.png") == said
