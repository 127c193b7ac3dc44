"""10,000 damaged files: each loads as a valid object or fails with ValueError, and nothing else.

Seeded, so that a failure can be run again: every message holds the case's number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import Draw, attack, cut, flip, mutate, repeated, safetensors_header
from router_files import archive, dit_pickle, drawn_logits, text, uvit_pickle

from l2c_rt.policies.router import Router
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.untrusted.torch_pickle import OPCODES

LOGITS = drawn_logits(4, 4)
BRANCHES = ("attn-0", "mlp-0", "attn-1", "mlp-1")


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


def good_files(folder: Path) -> tuple[bytes, bytes]:
    """A router and a schedule of ours."""
    router = Router(LOGITS, "dit", 4, source="fuzz", training='{"lr": 0.1}')
    router.save(folder / "good.safetensors")
    router.schedule().save(folder / "good.json")
    return (folder / "good.safetensors").read_bytes(), (folder / "good.json").read_bytes()


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
