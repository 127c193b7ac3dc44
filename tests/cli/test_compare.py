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
    model = rt.models.load_dit("dit.safetensors", num_heads=2)
    cuts = [rt.compile(model, router.schedule(reuse=share)) for share in SHARES]
    assert learned == pytest.approx([1 / cut.cost.speedup_limit for cut in cuts])
    assert len(printed["rows"]) == 1 + 4 * len(SHARES)
    assert (printed["router"], printed["weights"]) == ("router.safetensors", "dit.safetensors")


def test_without_shares_a_router_is_cut_as_published(folder: Path) -> None:
    words = ("compare", "router.safetensors", "--weights", "dit.safetensors")
    rows = fields(*words)["rows"]
    published = rt.Router.load("router.safetensors").schedule()
    fast = rt.compile(rt.models.load_dit("dit.safetensors", num_heads=2), published)
    assert [row["method"] for row in rows][:2] == ["full", "learned"]
    assert rows[1]["computed"] == pytest.approx(1 / fast.cost.speedup_limit)


def test_a_schedule_is_compared_as_it_is(folder: Path) -> None:
    rows = fields("compare", "schedule.json", "--weights", "dit.safetensors")["rows"]
    assert rows[1]["method"] == "this schedule"
    assert len(rows) == 5


def test_a_router_of_a_uvit(folder: Path) -> None:
    logits = np.linspace(-4, 4, 36, dtype=np.float32).reshape(6, 6)
    rt.Router(logits, "uvit", 6).save("u.safetensors")
    words = ("compare", "u.safetensors", "--weights", "uvit.pt", "--num-heads", "2")
    rows = fields(*words, "--reuse", "0.5")["rows"]
    cut = rt.Router.load("u.safetensors").schedule(reuse=0.5)
    fast = rt.compile(rt.models.load_uvit("uvit.pt", num_heads=2), cut)
    assert rows[1]["computed"] == pytest.approx(1 / fast.cost.speedup_limit)


def test_compute_methods_seeds_and_a_folder_are_options(folder: Path) -> None:
    words = ("compare", "router.safetensors", "--weights", "dit.safetensors", "--compute", "0.7",
             "--seed", "3", "--seeds", "2", "--folder", "run")  # fmt: skip
    printed = fields(*words, "--method", "EveryN:n=2", "--method", "random:reuse=0.5,seed=1",
                     "--method", "fora", "--corrector", "goc:eta=0.3,evaluations=None")  # fmt: skip
    rows = {row["method"]: row for row in printed["rows"]}
    assert [seed["seed"] for seed in rows["learned"]["seeds"]] == [3, 4]
    assert rows["EveryN:n=2"]["setting"] == "n=2"
    assert abs(rows["random:reuse=0.5,seed=1"]["computed"] - 0.7) < 0.02
    assert rows["fora"]["setting"] == "cache_threshold=2"
    assert rows["learned + goc:eta=0.3,evaluations=None"]["setting"].startswith("reuse=")
    results = [path.name for path in Path("run").iterdir()]
    assert "configuration.json" in results
    assert len(results) > 10


def test_the_routers_of_the_digits_know_their_model_and_lead_the_controls(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "compare.png"
    words = ("compare", "digits/ddim-20", "--reuse", "0.25", "--images", "3", "--cfg-scale", "1.5")
    shown = json.loads(done(*words, "--out", out, "--json"))
    assert out.read_bytes()[:4] == b"\x89PNG"
    psnr = {row["method"]: row["mean_psnr"] for row in shown["rows"][1:]}
    assert max(psnr, key=lambda name: psnr[name]) == "learned"


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_the_digits_routers_have_names_in_other_commands_too(command: str, tmp_path: Path) -> None:
    out = [tmp_path / "x.json"] if command == "convert" else []
    assert "20" in done(command, "digits/ddim-20", *out, "--reuse", "0.45")
