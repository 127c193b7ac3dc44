"""`l2c-rt inspect`: the map, the counts, and which model they are for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PRESET, done
from router_files import archive, dit_pickle, drawn_logits

import l2c_rt as rt


@pytest.mark.parametrize(
    ("name", "macs", "computed"),
    [
        ("l2c/dit-xl-2-256/ddim-50", "5.72 T full, 4.36 T cached", "2136/2800"),
        ("l2c/dit-xl-2-256/ddim-20", "2.29 T full, 1.78 T cached", "872/1120"),
    ],
)
def test_inspecting_a_preset_shows_its_map_and_the_papers_macs(
    name: str, macs: str, computed: str
) -> None:
    shown = done("inspect", name)
    assert macs in shown
    assert computed in shown
    assert "DiT-XL/2 256 (28 blocks, width 1152, 256 tokens)" in shown
    assert str(rt.presets.load(name)) in shown


def test_inspect_counts_a_uvit_preset_on_its_published_size() -> None:
    cost = json.loads(done("inspect", "l2c/uvit-h-2-256/dpm-50", "--json"))["cost"]
    assert cost["model"] == "U-ViT-H/2 256 (29 blocks, width 1152, 258 tokens)"
    assert round(cost["full_macs"] / 1e12, 2) == 6.44
    assert cost["slots"] == 58


def test_inspect_shows_a_routers_header_and_cuts_it_as_told(router: Path) -> None:
    shown = done("inspect", router, "--width", "32", "--tokens", "16")
    assert "scores      [6, 6], 3 rows used" in shown
    assert '{"seed": 3}' in shown
    fields = json.loads(done("inspect", router, "--reuse", "0.5", "--json"))
    assert fields["router_rows"] == {"1": 4, "3": 2, "5": 0}
    assert sum(fields["computed"]) == 6 * 6 - 9
    assert fields["training"] == {"seed": 3}
    # sigmoid(-4) < 0.1 < sigmoid(-2) < sigmoid(4) < 0.99
    everything = json.loads(done("inspect", router, "--threshold", "0.99", "--json"))
    assert sum(everything["computed"]) == 3 * 6


def test_inspect_reads_a_published_router(tmp_path: Path) -> None:
    path = tmp_path / "published.pt"
    path.write_bytes(archive(dit_pickle(drawn_logits()), drawn_logits()))
    assert done("inspect", path).startswith(f"published router {path}")


def test_inspect_without_a_known_size_says_what_to_give(schedule: Path) -> None:
    assert "cost: not known, no published DiT has 3 blocks; give --width" in done(
        "inspect", schedule
    )


def test_inspect_of_a_schedule_of_shells_says_where_its_cost_is(tmp_path: Path) -> None:
    path = tmp_path / "shells.json"
    rt.policies.DeepCache(2, 1).schedule(4, ("shell-0", "shell-1", "shell-2", "mid")).save(path)
    shown = done("inspect", str(path))
    assert "DeepCache, 2 of 4 full, branch 1" in shown
    assert "cost: not known, a U-Net's shells have any size; rt.compile(unet" in shown


def test_inspect_counts_the_model_of_a_weights_file(schedule: Path, dit_weights: Path) -> None:
    shown = json.loads(done("inspect", schedule, "--weights", dit_weights, "--json"))
    sized = json.loads(
        done("inspect", schedule, "--width", "32", "--tokens", "16", "--json"),
    )
    assert shown["cost"]["macs"] == sized["cost"]["macs"]


def test_inspect_draws_a_picture(schedule: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done("inspect", schedule, "--plot", tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"


def test_the_help_lists_the_presets_that_there_are() -> None:
    shown = done("inspect", "--help")
    assert all(name in shown for name in rt.presets.names())
    assert shown.count("    l2c/") + shown.count("  l2c/") >= len(rt.presets.names())


def test_inspecting_a_preset_does_not_import_torch() -> None:
    words = [sys.executable, "-X", "importtime", "-m", "l2c_rt.cli", "inspect", PRESET]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert "1.78 T cached" in ended.stdout
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "numpy" in imported
    assert not imported & {"torch", "matplotlib", "safetensors.torch", "diffusers"}
