"""`l2c-rt convert`: one file format into another, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from command_line import done, run
from router_files import archive, dit_pickle, drawn_logits

import l2c_rt as rt


def test_converting_a_router_to_a_schedule_and_smoothcache_and_back(
    router: Path, tmp_path: Path
) -> None:
    ours, smooth, back = (tmp_path / name for name in ("s.json", "smooth.json", "back.json"))
    done("convert", router, ours, "--reuse", "0.5")
    done("convert", ours, smooth, "--to", "smoothcache")
    said = done("convert", smooth, back, "--family", "dit", "--sampler", "ddim")
    wanted = rt.Router.load(router).schedule(reuse=0.5)
    assert rt.CacheSchedule.load(ours) == wanted
    assert rt.CacheSchedule.load(back) == wanted
    assert rt.CacheSchedule.load(back).family == "dit"
    assert said == f"{back}: schedule, 6 steps x 6 branches, 27 of 36 computed\n"


def test_converting_a_published_router_keeps_every_score(tmp_path: Path) -> None:
    path = tmp_path / "published.pt"
    path.write_bytes(archive(dit_pickle(drawn_logits()), drawn_logits()))
    done("convert", path, tmp_path / "ours.safetensors")
    ours, theirs = rt.Router.load(tmp_path / "ours.safetensors"), rt.Router.load(path)
    assert np.array_equal(ours.logits, theirs.logits)
    assert ours.schedule() == theirs.schedule()


def test_a_smoothcache_file_keyed_by_type_needs_the_number_of_blocks(tmp_path: Path) -> None:
    path = tmp_path / "types.json"
    path.write_text(json.dumps({"attn": [1, 0, 1], "mlp": [1, 1, 0]}))
    refused = run("convert", path, tmp_path / "out.json")
    assert refused.exit_code == 2
    assert "give --blocks" in refused.stderr
    done("convert", path, tmp_path / "out.json", "--blocks", "4")
    assert rt.CacheSchedule.load(tmp_path / "out.json").num_branches == 8


def test_convert_overwrites_only_when_forced(router: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("precious")
    assert run("convert", router, out).exit_code == 2
    assert out.read_text() == "precious"
    done("convert", router, out, "--force")
    assert rt.CacheSchedule.load(out).steps == 6
