"""The command l2c-rt: what it prints and writes, and the codes that it ends with."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from router_files import archive, dit_pickle, drawn_logits
from safetensors.numpy import load_file
from safetensors.torch import save_file
from toys import toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt import adapters
from l2c_rt.cli import main
from l2c_rt.cli.images import save_grid
from l2c_rt.cli.labels import parse_labels
from l2c_rt.cli.learn import read_batches
from l2c_rt.cli.models import load
from l2c_rt.models import DiT, UViT
from l2c_rt.plan.published import PATCH_VALUES, PUBLISHED, Size, program_of
from l2c_rt.policies import Random
from l2c_rt.schedule.cache_schedule import default_branches

PRESET = "l2c/dit-xl-2-256/ddim-20"
COMMANDS = ("inspect", "convert", "learn", "sample", "bench", "demo")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def done(*words: str | Path) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def dit_weights(tmp_path: Path) -> Path:
    """A DiT of 3 blocks, with its number of heads in the header."""
    path = tmp_path / "dit.safetensors"
    save_file(toy_dit().state_dict(), path, metadata={"num_heads": "2"})
    return path


@pytest.fixture
def schedule(tmp_path: Path) -> Path:
    """A schedule for that DiT: 6 evaluations, 6 branches, reusing half of the odd ones."""
    made = Random(0.5, seed=0).schedule(6, default_branches(6))
    replace(made, family="dit", sampler="ddim").save(tmp_path / "schedule.json")
    return tmp_path / "schedule.json"


@pytest.fixture
def router(tmp_path: Path) -> Path:
    logits = np.linspace(-4, 4, 6 * 6, dtype=np.float32).reshape(6, 6)
    made = rt.Router(logits, "dit", 6, source="by hand", training='{"seed": 3}')
    made.save(tmp_path / "router.safetensors")
    return tmp_path / "router.safetensors"


# inspect


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


@pytest.mark.parametrize(("width", "blocks"), [(32, 3), (64, 4)])
def test_the_sizes_of_inspect_are_the_programs_of_the_adapters(width: int, blocks: int) -> None:
    dit = DiT(input_size=8, hidden_size=width, depth=blocks, num_heads=2)
    assert adapters.bind(dit).program == program_of("dit", Size("", blocks, width, 16))
    uvit = UViT(8, 2, 4, width, blocks // 2 * 2, 2, num_classes=11, conv=False)
    size = Size("", blocks // 2 * 2 + 1, width, 18)
    assert adapters.bind(uvit).program == program_of("uvit", size)


def test_the_published_sizes_are_the_models_own() -> None:
    with torch.device("meta"):
        dit, uvit = rt.models.dit("dit-xl-2"), rt.models.uvit("uvit-h-2")
    for model, family in ((dit, "dit"), (uvit, "uvit")):
        assert adapters.bind(model).program == program_of(family, PUBLISHED[family])
    assert dit.x_embedder.proj.weight[0].numel() == PATCH_VALUES


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
    assert "cost: not known, no published dit has 3 blocks; give --width" in done(
        "inspect", schedule
    )


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


# exit codes


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["inspect", PRESET, "--reuse", "0.5"], 2, "needs the scores of a router"),
        (["inspect", PRESET, "--threshold", "nan"], 2, "not in 0..1"),
        (["inspect", "{router}", "--reuse", "1.5"], 2, "not in 0..1"),
        (["inspect", "{router}", "--reuse", "0.5", "--threshold", "0.5"], 2, "not both"),
        (["inspect", PRESET, "--plot", "map.jpg"], 2, "name it .png"),
        (["inspect", "{schedule}", "--weights", "{dit}", "--width", "8"], 2, "says this"),
        (["inspect", "no-such.pt"], 3, "no such file, and no preset; presets are l2c/"),
        (["inspect", "no-such.json"], 3, "no such file"),
        (["inspect", "{dit}"], 3, "wanted l2c_rt.router"),
        (["inspect", "{text}"], 3, "text.json"),
        (["inspect", "{folder}"], 3, "ends in one of"),
        (["inspect", PRESET, "--depth", "12"], 4, "56 branches, but this model has 24"),
        (["inspect", "{schedule}", "--weights", "{text}"], 3, "ends in one of"),
        (["convert", PRESET, "out.safetensors"], 2, "needs scores, and IN is a preset"),
        (["convert", "{router}", "out.txt"], 2, "ends in none of"),
        (["convert", "{router}", "out.json", "--to", "router"], 2, "ends in .safetensors"),
        (["convert", "{router}", "out.safetensors", "--reuse", "0.5"], 2, "keeps all scores"),
        (["convert", "{router}", "{text}"], 2, "exists; give --force"),
        (["convert", "{router}", "nowhere/out.json"], 2, "is no folder"),
        (["sample", "{dit}", "-o", "x.npy"], 2, "needed for"),
        (["sample", "{dit}", "--router", "full", "-o", "x.npy"], 2, "--steps"),
        (["sample", "{dit}", "--router", "{schedule}", "-o", "x.png"], 2, "1 or 3 channels"),
        (["sample", "{dit}", "--router", "{schedule}", "-o", "x.gif"], 2, "ends in none of"),
        (["sample", "{dit}", "--router", "{schedule}", "-o", "{text}"], 2, "ends in none of"),
        (["sample", "{dit}", "--router", "{schedule}", "--labels", "4-11", "-o", "x.npy"], 2,
         "not within 0..9"),
        (["sample", "{dit}", "--router", "{schedule}", "--device", "gpu", "-o", "x.npy"], 2,
         "--device"),
        (["sample", "{dit}", "--router", PRESET, "-o", "x.npy"], 4, "56 branches"),
        (["sample", "{uvit}", "--router", "{schedule}", "--num-heads", "2", "-o", "x.npy"], 4,
         "holds a uvit, the schedule is for a dit"),
        (["sample", "{uvit}", "--router", "full", "--steps", "5", "--num-heads", "2", "-o",
          "x.npy"], 4, "even number of evaluations"),
        (["sample", "{router}", "--router", "{schedule}", "-o", "x.npy"], 3, "the file has logits"),
        (["bench", "{schedule}", "--weights", "{dit}", "--width", "32"], 2, "random model"),
        (["bench", "l2c/uvit-h-2-256/dpm-20", "--width", "6"], 4, "embed_dim"),
    ],
)  # fmt: skip
def test_a_refusal_has_its_code_and_one_line_that_says_why(
    words: list[str], code: int, reason: str, tmp_path: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.json").write_text("this is text")
    torch.save(toy_uvit().state_dict(), tmp_path / "uvit.pt")
    places = {
        "{router}": "router", "{schedule}": "schedule", "{dit}": "dit_weights",
        "{text}": tmp_path / "text.json", "{uvit}": tmp_path / "uvit.pt", "{folder}": tmp_path,
    }  # fmt: skip
    for place, what in places.items():
        if place in words:
            path = request.getfixturevalue(what) if isinstance(what, str) else what
            words = [str(path) if word == place else word for word in words]
    result = run(*words)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: ")
    assert reason in lines[-1]
    assert len(lines) == 1 or code == 2 or "evaluation" in lines[0]


def test_an_unforeseen_error_ends_with_1_and_debug_shows_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("l2c_rt.cli.inspect.read_source", fail)
    result = run("inspect", PRESET)
    assert (result.exit_code, result.stderr) == (1, "Error: two lines\n")
    result = run("--debug", "inspect", PRESET)
    assert result.exit_code == 1
    assert "in fail" in result.stderr


def test_debug_shows_the_traceback_of_a_refused_file_too() -> None:
    result = run("--debug", "inspect", "no-such.pt")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_examples(command: str) -> None:
    shown = done(command, "--help")
    assert "Examples:" in shown
    assert f"  l2c-rt {command}" in shown
    assert command in done("--help")


def test_the_version_is_the_packages() -> None:
    assert done("--version").split() == ["l2c-rt", rt.__version__]


# convert


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
    assert refused.exit_code == 3
    assert "give blocks=" in refused.stderr
    done("convert", path, tmp_path / "out.json", "--blocks", "4")
    assert rt.CacheSchedule.load(tmp_path / "out.json").num_branches == 8


def test_convert_overwrites_only_when_forced(router: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("precious")
    assert run("convert", router, out).exit_code == 2
    assert out.read_text() == "precious"
    done("convert", router, out, "--force")
    assert rt.CacheSchedule.load(out).steps == 6


# sample


def test_sample_writes_what_compile_and_sample_give(
    dit_weights: Path, schedule: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / "x.npy", tmp_path / "x.safetensors"]
    shown = done(
        "sample", dit_weights, "--router", schedule, "--labels", "2,5-6", "--seed", "3",
        "--cfg-scale", "2", "-o", outs[0], "-o", outs[1],
    )  # fmt: skip
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    wanted = rt.compile(toy_dit(), schedule).sample(noise, [2, 5, 6], cfg_scale=2.0).numpy()
    written = load_file(outs[1])
    assert np.array_equal(np.load(outs[0]), wanted)
    assert np.array_equal(written["latents"], wanted)
    assert written["labels"].tolist() == [2, 5, 6]
    assert "9 of 36 branch calls" in shown


def test_sample_full_reuses_nothing(dit_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    shown = done("sample", dit_weights, "--router", "full", "--steps", "4", "-o", out)
    assert "reuse      0 of 24" in shown
    assert np.load(out).shape == (8, 4, 8, 8)


def test_sample_of_a_uvit_in_a_torch_file(tmp_path: Path) -> None:
    torch.save(toy_uvit().state_dict(), tmp_path / "uvit.pth")
    made = Random(0.5, seed=0).schedule(6, default_branches(6))
    replace(made, family="uvit").save(tmp_path / "s.json")
    done("sample", tmp_path / "uvit.pth", "--router", tmp_path / "s.json", "--num-heads", "2",
         "--labels", "0-1", "-o", tmp_path / "x.npy")  # fmt: skip
    assert np.isfinite(np.load(tmp_path / "x.npy")).all()


def test_a_model_of_images_gives_a_png(tmp_path: Path) -> None:
    model = toy_dit(patch_size=1, in_channels=1, learn_sigma=False)
    save_file(model.state_dict(), tmp_path / "m.safetensors", metadata={"num_heads": "2"})
    done("sample", tmp_path / "m.safetensors", "--router", "full", "--steps", "2", "--labels",
         "0-2", "-o", tmp_path / "x.png")  # fmt: skip
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_has_every_pixel_where_it_belongs(channels: int, tmp_path: Path) -> None:
    images = np.linspace(-1.2, 1.2, 3 * channels * 64).reshape(3, channels, 8, 8)
    save_grid(images.astype(np.float32), tmp_path / "x.png", columns=2)
    pixels = decoded(tmp_path / "x.png")
    # Cells of 8 x 8 pixels, each enlarged 8 times, with gaps of 2.
    assert pixels.shape == (130, 130, channels)
    want = np.clip((images[1] + 1) * 127.5, 0, 255).round()
    assert (pixels[:64:8, 66::8].transpose(2, 0, 1) == want).all()
    assert (pixels[64:66] == 255).all()
    assert (pixels[66:, 66:] == 255).all()


def decoded(path: Path) -> Any:
    """The pixels of a PNG whose rows have no filter."""
    content = path.read_bytes()
    width, height, depth, colour = struct.unpack(">IIBB", content[16:26])
    channels = {0: 1, 2: 3}[colour]
    assert depth == 8
    at = content.index(b"IDAT")
    size = int.from_bytes(content[at - 4 : at], "big")
    rows = np.frombuffer(zlib.decompress(content[at + 4 : at + 4 + size]), np.uint8)
    rows = rows.reshape(height, 1 + width * channels)
    assert (rows[:, 0] == 0).all()
    return rows[:, 1:].reshape(height, width, channels)


def test_labels_are_numbers_and_ranges() -> None:
    assert parse_labels("3", 10) == [3]
    assert parse_labels("0, 7-9,2", 10) == [0, 7, 8, 9, 2]
    for wrong in ("", "-1", "3-", "9-8", "10", "a", "1,,2", "0-99999999999"):
        with pytest.raises(click.BadParameter):
            parse_labels(wrong, 10)


# learn


LEARN = ("--steps", "4", "--iterations", "2", "--batch-size", "2", "--cfg-scale", "2")


def test_learn_leaves_a_router_and_a_report(dit_weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "run"
    shown = done("learn", dit_weights, *LEARN, "--reuse", "0.5", "--report", "2", "--out", out)
    router = rt.Router.load(out / "router.safetensors", steps=4, depth=3)
    assert str(router.schedule()) in shown
    assert (~router.schedule().compute).sum() == 6
    fields = json.loads((out / "fit.json").read_text())
    assert (fields["images"], fields["cfg_scale"]) == (2, 2)
    assert "noisiest first" in shown
    wanted = rt.learn(
        toy_dit(), steps=4, iterations=2, batch_size=2, cfg_scale=2.0, reuse=0.5, progress=False
    )
    assert np.array_equal(router.logits, wanted.logits)


def test_learn_keeps_a_router_that_is_there_unless_told(dit_weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ("learn", dit_weights, *LEARN, "--report", "0", "--out", tmp_path / "run")
    done(*words)
    refused = run(*words)
    assert refused.exit_code == 2
    assert "has a router already" in refused.stderr
    path = tmp_path / "run" / "router.safetensors"
    first = rt.Router.load(path).logits
    done(*words, "--resume")
    assert np.array_equal(rt.Router.load(path).logits, first)
    done(*words, "--force", "--seed", "5")
    assert not np.array_equal(rt.Router.load(path).logits, first)


def test_learn_reads_latents_in_batches_drawn_by_the_seed(
    dit_weights: Path, tmp_path: Path
) -> None:
    latents, labels = torch.randn(7, 4, 8, 8), torch.arange(7)
    save_file({"latents": latents, "labels": labels}, tmp_path / "x.safetensors")
    model = load(str(dit_weights), "")
    batches = read_batches(str(tmp_path / "x.safetensors"), model, {"batch_size": 3, "seed": 1})
    assert [len(batch) for batch, _ in batches] == [3, 3]
    seen = torch.cat([each for _, each in batches])
    assert len(set(seen.tolist())) == 6
    assert torch.equal(torch.cat([batch for batch, _ in batches]), latents[seen])
    other = read_batches(str(tmp_path / "x.safetensors"), model, {"batch_size": 3, "seed": 2})
    assert not torch.equal(torch.cat([each for _, each in other]), seen)


@pytest.mark.parametrize(
    ("tensors", "code", "reason"),
    [
        ({"latents": torch.zeros(4, 4, 8, 8)}, 3, "wanted latents and labels"),
        ({"latents": torch.zeros(4, 8, 8), "labels": torch.zeros(4)}, 3, "wanted floats"),
        ({"latents": torch.zeros(4, 3, 8, 8), "labels": torch.zeros(4)}, 4, "wanted [N, 4, 8, 8]"),
        ({"latents": torch.zeros(4, 4, 8, 8), "labels": torch.ones(4) * 10}, 4, "within 0..9"),
        ({"latents": torch.zeros(1, 4, 8, 8), "labels": torch.zeros(1)}, 2, "less than one batch"),
    ],
)
def test_learn_refuses_data_that_does_not_fit(
    tensors: dict[str, torch.Tensor], code: int, reason: str, dit_weights: Path, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    result = run("learn", dit_weights, *LEARN[:6], "--data", tmp_path / "x.safetensors", "--out",
                 tmp_path / "run")  # fmt: skip
    assert result.exit_code == code, result.output
    assert reason in result.stderr
    assert not (tmp_path / "run").exists()


# bench


def test_bench_prints_the_ratio_beside_its_limit(schedule: Path, dit_weights: Path) -> None:
    words = ("bench", schedule, "--weights", dit_weights, "--rounds", "1")
    shown = done(*words)
    limit = rt.compile(toy_dit(), schedule).cost.speedup_limit
    assert "dit, 3 blocks, width 32, 16 tokens" in shown
    assert f"at most {limit:.3f}x by arithmetic" in shown
    fields = json.loads(done(*words, "--backend", "reference", "--json"))
    assert len(fields["full_seconds"]) == len(fields["cached_seconds"]) == 2
    assert fields["limit"] == pytest.approx(limit)


@pytest.mark.parametrize("family", ["dit", "uvit"])
def test_bench_makes_a_random_model_of_the_schedules_family_and_depth(
    family: str, tmp_path: Path
) -> None:
    made = Random(0.5, seed=0).schedule(4, default_branches(6))
    replace(made, family=family).save(tmp_path / "s.json")
    shown = done("bench", tmp_path / "s.json", "--width", "64", "--input-size", "8")
    assert f"{family}, 3 blocks, width 64" in shown


# demo


def test_demo_and_demo_train_pass_on_what_they_are_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    calls: list[Any] = []
    monkeypatch.setattr(
        "l2c_rt.demo.run.run_demo",
        lambda out, settings: calls.append((out, settings.seed)) or "report",
    )
    monkeypatch.setattr(
        "l2c_rt.demo.train.train_digits",
        lambda out, steps, seed: calls.append((out, steps, seed)) or out / "w",
    )
    assert done("demo", "--out", tmp_path, "--seed", "4") == "report\n"
    assert done("demo", "train", "--out", tmp_path, "--steps", "7") == f"{tmp_path / 'w'}\n"
    assert calls == [(tmp_path, 4), (tmp_path, 7, 0)]


# real processes


def test_inspecting_a_preset_does_not_import_torch() -> None:
    words = [sys.executable, "-X", "importtime", "-m", "l2c_rt.cli", "inspect", PRESET]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert "1.78 T cached" in ended.stdout
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "numpy" in imported
    assert not imported & {"torch", "matplotlib", "safetensors.torch", "diffusers"}


def test_a_process_ends_with_the_code_and_no_traceback() -> None:
    words = [sys.executable, "-m", "l2c_rt.cli", "inspect", "no-such.pt"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith("Error: no-such.pt: no such file")
    assert ended.stderr.count("\n") == 1
