"""The file of earlier choices, by machine.  Untrusted: choices are read, never executed.

    {"version": 1, "machines": {machine: [{"problem": {...}, "choice": {...}}, ...]}}

Several processes may share it.  A write replaces the whole file, after merging in what the file
holds by then, and holds the lock beside it meanwhile; readers need no lock.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from l2c_rt.backends.tuning.problems import (
    AttentionConfig,
    AttentionProblem,
    LinearConfig,
    LinearProblem,
)
from l2c_rt.untrusted.atomic_write import write_whole
from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded, require_regular

VERSION = 1
MAX_BYTES = 4 << 20
LOCK_SECONDS = 10.0

Problem = LinearProblem | AttentionProblem
Choice = LinearConfig | AttentionConfig
Choices = dict[Problem, Choice]
Machines = dict[str, list[Any]]


def default_path() -> Path | None:
    """The file in this user's cache folder; None where there is no home."""
    path = platformdirs.user_cache_path("l2c_rt", appauthor=False) / "tune.json"
    # Without a home it is relative, and would be another file in every working folder.
    return path if path.is_absolute() else None


def read_choices(path: Path, machine: str) -> Choices:
    """The choices for a machine; entries that are not exactly a choice are left out.

    Raises: ValueError or OSError for a file that cannot be used.
    """
    return _choices(_machines(path).get(machine, []))


def write_choices(path: Path, machine: str, choices: Choices) -> None:
    """Add choices to those that the file holds for the machine, and keep other machines'.

    Raises: ValueError or OSError, with the file as it was, where it cannot be read or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"), timeout=LOCK_SECONDS)
    try:
        with lock:
            write_whole(path, _merged(path, machine, choices))
    except NotImplementedError as error:
        raise OSError(f"{path}: its file system has no locks") from error


def merge_files(source: Path, target: Path) -> int:
    """Add the choices of one file, of every machine, to another; how many there were.

    Raises: ValueError or OSError, as `write_choices`; ValueError for a file without choices.
    """
    found = {machine: _choices(entries) for machine, entries in _machines(source).items()}
    if not any(found.values()):
        raise ValueError(f"{source}: no choices in it; run l2c-rt tune with a schedule first")
    for machine, choices in found.items():
        write_choices(target, machine, choices)
    return sum(map(len, found.values()))


def _merged(path: Path, machine: str, choices: Choices) -> bytes:
    machines = _machines(path)
    merged = {**_choices(machines.get(machine, [])), **choices}
    ours = [
        {"problem": problem.to_json(), "choice": choice.to_json()}
        for problem, choice in merged.items()
    ]
    text = _text({**machines, machine: ours})
    if len(text) > MAX_BYTES:
        # Other machines' entries, and those of versions long gone, make room first.
        text = _text({machine: ours})
    if len(text) > MAX_BYTES:
        raise ValueError(f"{path}: {len(text)} bytes to write, wanted at most {MAX_BYTES}")
    return text


def _machines(path: Path) -> Machines:
    """The entries of every machine; none where there is no file.

    A file that is not one of ours, or a newer version's, is an error: it is not ours to replace.
    """
    if not path.exists():
        return {}
    require_regular(path)
    if path.stat().st_size == 0:
        # As a write interrupted by a power failure may leave it.
        return {}
    with naming(path):
        content = parse_json(read_bounded(path, MAX_BYTES, "tuning"))
    version = content.get("version") if isinstance(content, dict) else None
    if type(version) is not int or version != VERSION:
        raise ValueError(f"{path}: version is {version!r:.40}, wanted {VERSION}; move it away")
    machines = content.get("machines")
    if not isinstance(machines, dict):
        raise ValueError(f"{path}: no machines in it; move it away")
    return {name: entries for name, entries in machines.items() if isinstance(entries, list)}


def _choices(entries: list[Any]) -> Choices:
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


def _text(machines: Machines) -> bytes:
    return (json.dumps({"version": VERSION, "machines": machines}, indent=1) + "\n").encode()
