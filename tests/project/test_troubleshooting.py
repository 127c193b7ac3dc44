"""Every message that docs/troubleshooting.md quotes is one that the source still gives."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
KIND = re.compile(r"^(?:TypeError|ValueError|StepError|RuntimeError|L2CWarning): ", re.MULTILINE)
LEAST = 20
"""Letters of a text that must be fixed, or it would fit anything."""
VALUE = 40
"""Letters that a value may have; what is longer holds a text in turn."""


def quotes() -> list[str]:
    """The messages of the page on one line each, without their kinds."""
    blocks = re.findall(r"^```\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    messages = [message for block in blocks for message in KIND.split(block) if message]
    return [" ".join(message.split()) for message in messages]


def texts() -> Iterator[re.Pattern[str]]:
    """Every text of the package, f-strings with anything where a value goes."""
    for path in (ROOT / "l2c_rt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            fixed = [part.value for part in parts if isinstance(part, ast.Constant)]
            if sum(len(text) for text in fixed if isinstance(text, str)) >= LEAST:
                yield re.compile("".join(map(pattern_of, parts)), re.DOTALL)


def pattern_of(part: ast.AST) -> str:
    return re.escape(str(part.value)) if isinstance(part, ast.Constant) else "(.+)"


@cache
def known_texts() -> list[re.Pattern[str]]:
    return list(texts())


def is_given(message: str) -> bool:
    for text in known_texts():
        found = text.fullmatch(message)
        long = [value for value in found.groups() if len(value) > VALUE] if found else []
        if found and all(any(inner.search(value) for inner in known_texts()) for value in long):
            return True
    return False


@pytest.mark.parametrize("quote", quotes())
def test_a_quoted_message_is_in_the_source(quote: str) -> None:
    named = quote.partition(": ")[2]  # Loaders put the file's name before.
    assert is_given(quote) or is_given(named)


def test_every_block_without_a_language_is_a_quote() -> None:
    assert len(quotes()) == len(KIND.findall(PAGE)) > 30


def test_entries_have_the_message_that_they_are_about() -> None:
    entries = [
        entry for section in PAGE.split("\n## ")[1:] for entry in section.split("\n### ")[1:]
    ]
    without = [entry.partition("\n")[0] for entry in entries if "```" not in entry]
    assert without == ['"The solver makes more calls than steps"', '"Time rises from 0 to 1"']
