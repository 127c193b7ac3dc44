"""The file of earlier choices, by machine.  Untrusted: choices are read, never executed.

Its entries are {"problem": {...}, "choice": {...}}; see `machine_file`.
"""

from __future__ import annotations

from pathlib import Path

import platformdirs

from l2c_rt.backends.tuning.machine_file import Entries, read_machines, write_machine
from l2c_rt.backends.tuning.problems import (
    AttentionConfig,
    AttentionProblem,
    LinearConfig,
    LinearProblem,
)

Problem = LinearProblem | AttentionProblem
Choice = LinearConfig | AttentionConfig
Choices = dict[Problem, Choice]


def default_path() -> Path | None:
    """The file in this user's cache folder; None where there is no home."""
    path = platformdirs.user_cache_path("l2c_rt", appauthor=False) / "tune.json"
    # Without a home it is relative, and would be another file in every working folder.
    return path if path.is_absolute() else None


def read_choices(path: Path, machine: str) -> Choices:
    """The choices for a machine; entries that are not exactly a choice are left out.

    Raises: ValueError or OSError for a file that cannot be used.
    """
    return _choices(read_machines(path).get(machine, []))


def write_choices(path: Path, machine: str, choices: Choices) -> None:
    """Add choices to those that the file holds for the machine, and keep other machines'.

    Raises: ValueError or OSError, with the file as it was, where it cannot be read or written.
    """

    def merged(entries: Entries) -> Entries:
        return [
            {"problem": problem.to_json(), "choice": choice.to_json()}
            for problem, choice in {**_choices(entries), **choices}.items()
        ]

    write_machine(path, machine, merged)


def merge_files(source: Path, target: Path) -> int:
    """Add the choices of one file, of every machine, to another; how many there were.

    Raises: ValueError or OSError, as `write_choices`; ValueError for a file without choices.
    """
    found = {machine: _choices(entries) for machine, entries in read_machines(source).items()}
    if not any(found.values()):
        raise ValueError(f"{source}: no choices in it; run l2c-rt tune with a schedule first")
    for machine, choices in found.items():
        write_choices(target, machine, choices)
    return sum(map(len, found.values()))


def _choices(entries: Entries) -> Choices:
    choices: Choices = {}
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        problem, choice = entry.get("problem"), entry.get("choice")
        linear = LinearProblem.from_json(problem), LinearConfig.from_json(choice)
        attention = AttentionProblem.from_json(problem), AttentionConfig.from_json(choice)
        for key, value in (linear, attention):
            if key is not None and value is not None:
                choices[key] = value
    return choices
