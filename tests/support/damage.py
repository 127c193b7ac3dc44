"""Damage done to files by a seed, and a loader tried on each of them."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Draw = np.random.Generator
MAX_SECONDS = 5.0
MAX_GROWTH_BYTES = 256 << 20


def flip(draw: Draw, content: bytes) -> bytes:
    """A few bytes set to anything, or a few bits turned."""
    damaged = bytearray(content)
    for at in draw.integers(0, len(damaged), draw.integers(1, 5)):
        damaged[at] = (
            draw.integers(256) if draw.random() < 0.5 else damaged[at] ^ (1 << draw.integers(8))
        )
    return bytes(damaged)


def cut(draw: Draw, content: bytes) -> bytes:
    """The start of the file, its end, or the file without a piece, or with a piece twice."""
    first, last = sorted(draw.integers(0, len(content) + 1, 2))
    kinds = (content[:first], content[first:], content[:first] + content[last:])
    return (*kinds, content[:last] + content[first:])[draw.integers(4)]


def odd_value(draw: Draw) -> Any:
    """A JSON value that some field will not expect."""
    huge = 10 ** int(draw.integers(1, 400))
    values = [None, True, -1, 0, 1, huge, -huge, 0.5, 1e308, "", "1", "\x00", "\ud800", "x" * 2_000]
    values += [[], {}, [[]], ["1"], [1] * 5, {"a": 1}, "NaN", "10" * 3, "attn-0", [[1, 0]] * 3]
    return values[draw.integers(len(values))]


def mutate(draw: Draw, value: Any) -> Any:
    """Somewhere in a JSON value, something dropped, added, replaced or doubled."""
    if isinstance(value, (dict, list)) and value and draw.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[draw.integers(len(keys))]
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        action = draw.random()
        if action < 0.15:
            del copy[key]
        elif action < 0.25 and isinstance(copy, dict):
            copy["x" + str(key)] = copy.pop(key)
        elif action < 0.25:
            copy.insert(key, odd_value(draw))
        else:
            copy[key] = mutate(draw, copy[key])
        return copy
    if isinstance(value, str) and value and draw.random() < 0.5:
        return cut(draw, flip(draw, value.encode("utf-8", "surrogatepass"))).decode("latin-1")
    return odd_value(draw)


def safetensors_header(draw: Draw, content: bytes) -> bytes:
    """The header changed as JSON, as bytes, or in its length, and the tensor kept."""
    size = int.from_bytes(content[:8], "little")
    header, rest = content[8 : 8 + size], content[8 + size :]
    if draw.random() < 0.7:
        fields = mutate(draw, json.loads(header))
        header = json.dumps(fields).encode()
    else:
        header = flip(draw, header)
    length = len(header) if draw.random() < 0.9 else int(draw.integers(0, 1 << 63))
    return length.to_bytes(8, "little") + header + rest


def repeated(count: int, make: Callable[[Draw, bytes], bytes], good: bytes) -> Iterator[Any]:
    return (lambda draw, make=make, good=good: make(draw, good) for _ in range(count))


def attack(folder: Path, name: str, makes: list[Any], use: Callable[[Path], None]) -> int:
    """Load every case; the number of those that were valid objects."""
    draw, path, valid = np.random.default_rng(2406_01733), folder / "cases" / name, 0
    path.parent.mkdir()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case, make in enumerate(makes):
        content = make(draw)
        start = time.perf_counter()
        try:
            path.write_bytes(content)
            use(path)
            valid += 1
        except ValueError as error:
            if str(path) not in str(error):
                raise AssertionError(f"case {case} does not name the file: {error}") from error
        except BaseException as error:
            raise AssertionError(f"case {case} raised {error!r}") from error
        assert time.perf_counter() - start < MAX_SECONDS, f"case {case} is slow"
    growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert growth_kib * 1024 < MAX_GROWTH_BYTES
    assert not {*path.parent.iterdir()} - {path}, "a file was executed"
    return valid
