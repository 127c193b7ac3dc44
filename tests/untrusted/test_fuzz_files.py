"""10,000 damaged files: each loads as a valid object or fails with ValueError, and nothing else.

Seeded, so that a failure can be run again: every message holds the case's number. The bytes go to
the readers from memory; read_bounded, which files pass first, has tests of its own.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from router_files import archive, dit_pickle, drawn_logits, text, uvit_pickle

from l2c_rt.policies import router_files
from l2c_rt.policies.router import Router
from l2c_rt.schedule import files
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.untrusted.torch_pickle import OPCODES

Draw = np.random.Generator
LOGITS = drawn_logits(4, 4)
MAX_SECONDS = 5.0
MAX_GROWTH_BYTES = 256 << 20
BRANCHES = ("attn-0", "mlp-0", "attn-1", "mlp-1")


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
    values += [[], {}, [[]], ["1"], [1] * 5, {"a": 1}, "NaN", "10" * 3, BRANCHES[0], [[1, 0]] * 3]
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


def snippets(canary: Path) -> list[bytes]:
    """Pickle opcodes to put anywhere: calls that would run code, huge claims, odd values."""
    touch = text(f"touch {canary}") + b"\x85R"
    calls = [b"cos\nsystem\n" + touch, b"cposix\nsystem\n" + touch, b"cbuiltins\nexec\n" + touch]
    calls += [b"cbuiltins\ngetattr\n(cbuiltins\nstr\n" + text("join") + b"tR", b"cos\nsystem\n"]
    claims = [b"\x8a\xff" + b"\x7f" * 255, b"X\xff\xff\xff\xff", b"B\xff\xff\xff\xff"]
    claims += [b"r" + b"\xff" * 4]
    values = [b"N", b"(", b")", b"]", b"}", b"\x88", b"K\x07", b"J\xff\xff\xff\xff"]
    values += [b"G" + b"\x7f\xf8" * 4]
    memo = [b"q\x00", b"h\x00", b"j\x01\x00\x00\x00", b"2", b"0", b"1", b"\x82\x01", b"\x93"]
    memo += [b"o", b"."]
    return calls + claims + values + memo + sorted(OPCODES)


def opcodes(draw: Draw, pickle: bytes, pieces: list[bytes]) -> bytes:
    """The pickle with opcodes put in, taken out or overwritten."""
    for _ in range(draw.integers(1, 4)):
        at, size = int(draw.integers(2, len(pickle))), int(draw.integers(0, 12))
        piece = pieces[draw.integers(len(pieces))]
        kinds = (pickle[:at] + piece + pickle[at:], pickle[:at] + pickle[at + size :])
        pickle = (*kinds, pickle[:at] + piece + pickle[at + len(piece) :])[draw.integers(3)]
    return pickle


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


def smoothcache(draw: Draw) -> bytes:
    columns = {name: [1, *map(int, draw.integers(0, 2, 3))] for name in BRANCHES}
    return json.dumps(mutate(draw, columns)).encode()


def use_router(path: Path) -> None:
    router = Router.load(path)
    schedule = router.schedule()
    assert schedule.compute.shape == (router.steps, len(router.branches))
    assert np.isfinite(router.logits[list(router.valid_rows().values())]).all()


def use_schedule(path: Path) -> None:
    schedule = CacheSchedule.load(path)
    assert schedule.compute[0].all()
    assert len(str(schedule).splitlines()) >= schedule.steps


def use_smoothcache(path: Path) -> None:
    schedule = CacheSchedule.from_smoothcache(path)
    assert schedule.compute[0].all()
    assert CacheSchedule.from_smoothcache(schedule.to_smoothcache()) == schedule


def repeated(count: int, make: Callable[[Draw, bytes], bytes], good: bytes) -> Iterator[Any]:
    return (lambda draw, make=make, good=good: make(draw, good) for _ in range(count))


def good_files(folder: Path) -> tuple[bytes, bytes]:
    """A router and a schedule of ours."""
    router = Router(LOGITS, "dit", 4, source="fuzz", training='{"lr": 0.1}')
    router.save(folder / "good.safetensors")
    router.schedule().save(folder / "good.json")
    return (folder / "good.safetensors").read_bytes(), (folder / "good.json").read_bytes()


def attack(folder: Path, name: str, makes: list[Any], use: Callable[[Path], None]) -> int:
    """Load every case; the number of those that were valid objects."""
    draw, path, valid = np.random.default_rng(2406_01733), folder / "cases" / name, 0
    path.parent.mkdir()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case, make in enumerate(makes):
        content = make(draw)
        start = time.perf_counter()
        try:
            with_content(content, use, path)
            valid += 1
        except ValueError:
            pass
        except BaseException as error:
            raise AssertionError(f"case {case} raised {error!r}") from error
        assert time.perf_counter() - start < MAX_SECONDS, f"case {case} is slow"
    growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert growth_kib * 1024 < MAX_GROWTH_BYTES
    assert not list(path.parent.iterdir()), "a file was executed"
    return valid


def with_content(content: bytes, use: Callable[[Path], None], path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (router_files, files):
            patch.setattr(module, "read_bounded", lambda *_: content)
        use(path)


@pytest.mark.parametrize("family", ["dit", "uvit"])
def test_2000_damaged_archives(tmp_path, family):
    pickle = dit_pickle(LOGITS) if family == "dit" else uvit_pickle(LOGITS)
    good = archive(pickle, LOGITS)
    makes = [*repeated(600, flip, good), *repeated(400, cut, good)]
    valid = attack(tmp_path, "case.pt", makes, use_router)
    assert valid < len(makes)


@pytest.mark.parametrize("family", ["dit", "uvit"])
def test_3000_damaged_pickles_in_sound_archives(tmp_path, family):
    pickle = dit_pickle(LOGITS) if family == "dit" else uvit_pickle(LOGITS)
    pieces = snippets(tmp_path / "cases" / "canary")
    makes: list[Any] = [
        *repeated(800, lambda draw, good: opcodes(draw, good, pieces), pickle),
        *repeated(500, flip, pickle),
        *repeated(200, cut, pickle),
    ]
    wrapped = [lambda draw, make=make: archive(make(draw), LOGITS) for make in makes]
    valid = attack(tmp_path, "case.pth", wrapped, use_router)
    assert 0 < valid < len(makes)


def test_2000_damaged_routers_of_ours(tmp_path):
    good, _ = good_files(tmp_path)
    makes = [
        *repeated(1_200, safetensors_header, good),
        *repeated(500, flip, good),
        *repeated(300, cut, good),
    ]
    assert 0 < attack(tmp_path, "case.safetensors", makes, use_router) < len(makes)


def test_2500_damaged_schedules(tmp_path):
    _, good = good_files(tmp_path)
    makes: list[Any] = [
        lambda draw: json.dumps(mutate(draw, json.loads(good))).encode() for _ in range(1_500)
    ]
    makes += [*repeated(600, flip, good), *repeated(400, cut, good)]
    assert 0 < attack(tmp_path, "case.json", makes, use_schedule) < len(makes)


def test_500_damaged_smoothcache_schedules(tmp_path):
    assert attack(tmp_path, "case.json", [smoothcache] * 500, use_smoothcache) < 500


def test_the_attack_notices_an_execution_and_another_exception(tmp_path):
    def execute(path: Path) -> None:
        (path.parent / "canary").touch()

    def fail(path: Path) -> None:
        raise KeyError(path.name)

    with pytest.raises(AssertionError, match="executed"):
        attack(tmp_path, "case.pt", [lambda draw: b"x"], execute)
    with pytest.raises(AssertionError, match="case 0 raised KeyError"):
        attack(tmp_path / "cases", "case.pt", [lambda draw: b"x"], fail)
