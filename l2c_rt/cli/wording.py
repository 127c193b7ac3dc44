"""The library's messages as the command line says them: `--num-heads` for `num_heads=`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import click

FUNCTIONS = re.compile(r"^(?:compare|compile|fit_report|learn|run_demo|sample): ")
"""The library's messages begin with the function that was called, which a shell has not."""

SCHEDULE = re.compile(r"^(?:CacheSchedule|schedule)(?=: )")

SOURCES = ("source", "router")
"""What commands call the argument that is a router or schedule."""

VALUE = r"(?:(?P<quote>['\"]?)(?P<value>[^\s;,'\")]*)(?P=quote))"


def in_one_line(text: str) -> str:
    """The text without line breaks."""
    return " ".join(text.split())


def in_cli_words(text: str, command: click.Command) -> tuple[str, bool]:
    """A message with the command's options for Python's keywords, and whether it names any.

    `steps=5` becomes `--steps 5`, `resume=True` `--resume`, `lam=None` `no --lam`.  Keywords of
    which the command has no option stay.
    """
    before = text = SCHEDULE.sub(_schedule_parameter(command), FUNCTIONS.sub("", text))
    for name, flag in sorted(_flags(command)):
        # Not within a path, nor within another name.
        start, end = rf"(?<![\w./-]){name}", r"(?![\w./=-])"
        text = re.sub(f"{start}={VALUE}", partial(_given, flag), text)
        text = re.sub(f"^{name}(?= is )", flag, text)
        if "_" in name:
            text = re.sub(start + end, flag, text)
    return text, text != before


def _flags(command: click.Command) -> Iterator[tuple[str, str]]:
    """(keyword, option) of a command and of those below it."""
    for param in command.params:
        if isinstance(param, click.Option):
            flag = max(param.opts, key=len)
            yield flag.removeprefix("--").replace("-", "_"), flag
    if isinstance(command, click.Group):
        for below in command.commands.values():
            yield from _flags(below)


def _schedule_parameter(command: click.Command) -> str:
    """How a user of the command names the router or schedule that it was given."""
    if any("--router" in param.opts for param in command.params):
        return "--router"
    named = (p.metavar for p in command.params if p.name in SOURCES and isinstance(p.metavar, str))
    return next(named, "the schedule")


def _given(flag: str, match: re.Match[str]) -> str:
    value = match["value"]
    if value in ("False", "None"):
        return f"no {flag}"
    return flag if value in ("", "True") else f"{flag} {value}"
