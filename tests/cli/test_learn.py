"""`l2c-rt learn`: the router and report that it leaves, and the data that it reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import done, run
from safetensors.torch import save_file
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.cli.learn import read_batches
from l2c_rt.cli.models import load

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
    assert (out / "fit.png").read_bytes().startswith(b"\x89PNG")
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


NO_LABELS = torch.zeros(4, dtype=torch.int32)


@pytest.mark.parametrize(
    ("tensors", "code", "reason"),
    [
        ({"latents": torch.zeros(4, 4, 8, 8)}, 3, "wanted latents and labels"),
        ({"latents": torch.zeros(4, 8, 8), "labels": torch.zeros(4)}, 3, "wanted floats"),
        ({"latents": torch.zeros(0, 4, 8, 8), "labels": NO_LABELS[:0]}, 3, "wanted floats"),
        ({"latents": torch.ones(4, 4, 8, 8) / 0, "labels": NO_LABELS}, 3, "not finite"),
        ({"latents": torch.zeros(4, 3, 8, 8), "labels": NO_LABELS}, 4, "wanted [N, 4, 8, 8]"),
        ({"latents": torch.zeros(4, 4, 8, 8), "labels": NO_LABELS + 10}, 4, "within 0..9"),
        ({"latents": torch.zeros(1, 4, 8, 8), "labels": NO_LABELS[:1]}, 2, "less than one batch"),
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
