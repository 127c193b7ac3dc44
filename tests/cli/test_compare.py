"""`l2c-rt compare`: its routers, its table, its picture and its JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import done

import l2c_rt as rt

SHARES = (0.25, 0.45, 0.65)


def fields(*words: object) -> dict[str, Any]:
    printed: dict[str, Any] = json.loads(done(*map(str, words), "--images", "2", "--json"))
    return printed


def test_a_router_of_a_dit_is_cut_at_every_share(folder: Path) -> None:
    words = ("compare", "router.safetensors", "--weights", "dit.safetensors")
    printed = fields(*words, "--reuse", "0.25,0.45,0.65")
    router = rt.Router.load("router.safetensors")
    learned = [row["computed"] for row in printed["rows"] if row["method"] == "learned"]
    assert learned == [1 - router.schedule(reuse=share).reuse_share for share in SHARES]
    assert len(printed["rows"]) == 1 + 4 * len(SHARES)
    assert (printed["router"], printed["weights"]) == ("router.safetensors", "dit.safetensors")


def test_without_shares_a_router_is_cut_as_published(folder: Path) -> None:
    words = ("compare", "router.safetensors", "--weights", "dit.safetensors")
    rows = fields(*words)["rows"]
    published = rt.Router.load("router.safetensors").schedule()
    assert [row["method"] for row in rows][:2] == ["full", "learned"]
    assert rows[1]["computed"] == 1 - published.reuse_share


def test_a_schedule_is_compared_as_it_is(folder: Path) -> None:
    rows = fields("compare", "schedule.json", "--weights", "dit.safetensors")["rows"]
    assert rows[1]["method"] == "this schedule"
    assert len(rows) == 5


def test_a_router_of_a_uvit(folder: Path) -> None:
    logits = np.linspace(-4, 4, 36, dtype=np.float32).reshape(6, 6)
    rt.Router(logits, "uvit", 6).save("u.safetensors")
    words = ("compare", "u.safetensors", "--weights", "uvit.pt", "--num-heads", "2")
    rows = fields(*words, "--reuse", "0.5")["rows"]
    assert (
        rows[1]["computed"] == 1 - rt.Router.load("u.safetensors").schedule(reuse=0.5).reuse_share
    )


def test_the_routers_of_the_digits_know_their_model_and_lead_the_controls(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "compare.png"
    words = ("compare", "digits/ddim-20", "--reuse", "0.25", "--images", "3", "--cfg-scale", "1.5")
    shown = done(*words, "--out", out)
    assert out.read_bytes()[:4] == b"\x89PNG"
    rows = {line.split()[0]: line.split() for line in shown.splitlines()[3:]}
    psnr = {name: float(cells[-2]) for name, cells in rows.items() if name != "full"}
    assert max(psnr, key=lambda name: psnr[name]) == "learned"


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_the_digits_routers_have_names_in_other_commands_too(command: str, tmp_path: Path) -> None:
    out = [tmp_path / "x.json"] if command == "convert" else []
    assert "20" in done(command, "digits/ddim-20", *out, "--reuse", "0.45")
