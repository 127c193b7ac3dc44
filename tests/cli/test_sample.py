"""`l2c-rt sample`: the latents that compile and sample give, in files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from command_line import done
from safetensors.numpy import load_file
from safetensors.torch import save_file
from toys import toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.policies import Random
from l2c_rt.schedule.cache_schedule import default_branches


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


def test_a_model_without_labels_gives_as_many_images_as_labels_are_listed(tmp_path: Path) -> None:
    torch.save(toy_uvit(num_classes=-1).state_dict(), tmp_path / "uvit.pth")
    words = (tmp_path / "uvit.pth", "--num-heads", "2")
    done("sample", *words, "--router", "full", "--steps", "2", "--labels", "0-4", "-o",
         tmp_path / "x.npy")  # fmt: skip
    assert np.load(tmp_path / "x.npy").shape == (5, 4, 8, 8)
    random = Random(0.5, seed=0).schedule(4, default_branches(6))
    replace(random, family="uvit").save(tmp_path / "s.json")
    done("bench", tmp_path / "s.json", "--weights", *words, "--rounds", "1", "--device", "cpu")


def test_a_model_of_images_gives_a_png(tmp_path: Path) -> None:
    model = toy_dit(patch_size=1, in_channels=1, learn_sigma=False)
    save_file(model.state_dict(), tmp_path / "m.safetensors", metadata={"num_heads": "2"})
    done("sample", tmp_path / "m.safetensors", "--router", "full", "--steps", "2", "--labels",
         "0-2", "-o", tmp_path / "x.png")  # fmt: skip
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
