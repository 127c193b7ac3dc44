"""Every snippet of README.md and docs/ runs: python blocks in order, one namespace per file, the
l2c-rt lines of sh blocks, and a json block is a file that they wrote.

A block is left out only by a comment before it that says why: <!-- not run: REASON -->, or, for
an optional package or a GPU, <!-- needs: PACKAGE --> or <!-- needs: cuda -->.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from l2c_rt import adapters, presets
from l2c_rt.cli import main

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*FILES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
NAMED = re.compile(
    r"`((?:l2c_rt|kernels|csrc|tests|docs)/[\w./-]*(?:\.\w+|/)|bench/[\w./-]+\.\w+)`"
)
"""A file or folder of the repository, named in a page; folders under bench/ may be yet to come."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
REMARK = re.compile(r"<!-- (not run|needs): ([^>]+) -->\n+\Z")


@dataclass(frozen=True)
class Snippet:
    """One fenced block; `remark` is what the comment before it says."""

    language: str
    code: str
    line: int
    remark: tuple[str, str] | None


def snippets(file: Path) -> Iterator[Snippet]:
    text = file.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        remark = REMARK.search(text[: block.start()])
        said = (remark[1], remark[2].strip()) if remark else None
        yield Snippet(block[1], block[2], text[: block.start(2)].count("\n"), said)


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    # docs/adding-a-model.md registers an adapter.
    monkeypatch.setattr(adapters, "SUPPORTED", dict(adapters.SUPPORTED))
    torch.manual_seed(0)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_snippets_run_in_order(file: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "snippet"}
    missing = []
    for snippet in snippets(file):
        if snippet.remark is not None:
            what, said = snippet.remark
            if what == "not run" or not is_here(said):
                missing += [said] if what == "needs" else []
                continue
        if snippet.language == "python":
            # Blank lines first, so that a traceback has the line of the file.
            source = "\n" * snippet.line + snippet.code
            exec(compile(source, str(file), "exec"), namespace)
        elif snippet.language == "sh":
            run_commands(snippet.code)
        elif snippet.language == "json":
            assert snippet.code in [file.read_text() for file in Path().glob("*.json")]
    if missing:
        pytest.skip(f"the other snippets ran; these need {', '.join(missing)}")


def is_here(what: str) -> bool:
    """A package that is installed, or "cuda": a GPU."""
    if what == "cuda":
        return torch.cuda.is_available()
    return importlib.util.find_spec(what) is not None


def run_commands(code: str) -> None:
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["l2c-rt"]:
            result = CliRunner().invoke(main, words[1:])
            assert result.exit_code == 0, f"{line}\n{result.output}"


def test_there_are_snippets_to_run() -> None:
    counts = {file.name: sum(1 for _ in snippets(file)) for file in FILES}
    for table in ("structure.md", "families.md"):
        assert counts.pop(table) == 0
    assert len(counts) >= 7
    assert all(counts.values()), counts


def test_only_python_sh_diff_and_plain_blocks_are_used() -> None:
    languages = {snippet.language for file in FILES for snippet in snippets(file)}
    assert languages <= {"python", "sh", "diff", "json", ""}


def test_the_savings_of_the_presets_are_those_of_inspect() -> None:
    text = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    for name in presets.names():
        inspected = json.loads(CliRunner().invoke(main, ["inspect", name, "--json"]).stdout)
        cost = inspected["cost"]
        row = [f"{100 * inspected['reuse_share']:.1f} %", f"{cost['full_macs'] / 1e12:.2f} T"]
        row += [f"{cost['macs'] / 1e12:.2f} T", f"{cost['speedup_limit']:.3f}x"]
        assert f"| {name} | {' | '.join(row)} |" in text


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.stem)
def test_every_file_that_a_page_links_to_or_names_is_there(file: Path) -> None:
    text = re.sub(r"<!--.*?-->", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)[^)]*\)|<img src=\"([^\"]+)\"", text)
    targets = [link or image for link, image in links]
    near = [file.parent / target for target in targets if not target.startswith("http")]
    named = [ROOT / path for path in NAMED.findall(text)] if file.stem != "CHANGELOG" else []
    assert not [str(path) for path in near + named if not path.exists()]


def test_every_heading_that_a_page_links_to_is_there() -> None:
    for file in PAGES:
        for target, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", file.read_text("utf-8")):
            page = file.parent / target if target else file
            headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]
            assert heading in anchors, f"{file.name}: {target}#{heading}"
