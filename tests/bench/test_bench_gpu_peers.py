"""What l2c_rt is compared with, at toy size on a CPU: each computes what it should."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cpu_suite import DIT, UVIT, ToyCase, toy_rig, toy_suite, toy_tools, traced
from gpu import published
from gpu.cache_dit_peer import steps_mask
from gpu.models import Case
from gpu.parts import peer_part
from gpu.peers import PEERS
from gpu.strong_peer import StrongPeer
from gpu.suite import Part
from gpu.timing import relative_difference
from toys import random_schedule, toy_dit

from l2c_rt.presets import load


@pytest.mark.parametrize(
    ("case", "name"),
    [(DIT, "eager"), (DIT, "compiled"), (DIT, "strong"), (UVIT, "eager"), (UVIT, "compiled")],
    ids=lambda value: getattr(value, "model", value),
)
def test_a_peer_computes_the_reference(case: ToyCase, name: str, tmp_path: Path) -> None:
    result = peer_part(case, 2, name, toy_suite(tmp_path))
    for found in result["differences"].values():
        assert found["difference"] <= 1e-5
    assert len(result["samples"][name]) == len(result["samples"]["cached"]) == 2


def test_diffusers_dit_compiled_computes_its_own_reference(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    result = peer_part(DIT, 2, "diffusers", toy_suite(tmp_path, tools=toy_tools(lambda f: f)))
    assert result["differences"]["diffusers"]["difference"] <= 1e-5


@pytest.mark.parametrize("name", ["cache-dit", "cache-dit-compiled"])
def test_cache_dit_caches_as_many_evaluations_as_asked(name: str, tmp_path: Path) -> None:
    pytest.importorskip("cache_dit")
    result = peer_part(DIT, 2, name, toy_suite(tmp_path))
    assert result["facts"]["cached_evaluations"] > 0
    assert 0 < result["differences"][name]["difference"] < 1


def test_peers_in_bfloat16_stay_within_twice_the_eager_error(tmp_path: Path) -> None:
    suite = toy_suite(tmp_path, rig=toy_rig(torch.bfloat16), tools=toy_tools(lambda f: f))
    found = peer_part(DIT, 2, "strong", suite)["differences"]["strong"]
    assert 1e-4 < found["difference"] <= found["allowed"] < 0.2


@pytest.mark.parametrize("preset", ["ddim-20", "ddim-50"])
def test_the_strong_peer_captures_every_distinct_row_once(preset: str) -> None:
    schedule, captured = load(f"l2c/dit-xl-2-256/{preset}"), []

    def capture(run: Callable[[], object]) -> Callable[[], object]:
        captured.append(run)
        return run

    StrongPeer(toy_dit(depth=28), schedule, 1, lambda f: f, capture)
    assert len(captured) == len(schedule.distinct_rows()) == {"ddim-20": 7, "ddim-50": 14}[preset]


def test_the_strong_peers_blocks_share_one_compilation_per_variant() -> None:
    """And stay below the number at which torch.compile would give up."""
    model, schedule = toy_dit(depth=8), load("l2c/dit-xl-2-256/ddim-20")
    schedule = replace(schedule, compute=schedule.compute[:, :16], branches=schedule.branches[:16])
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        peer = StrongPeer(model, schedule, 1, traced, lambda run: run)
        peer(torch.randn(1, 4, 8, 8), torch.tensor([3]))
    variants = torch._dynamo.utils.counters["stats"]["unique_graphs"] - len(("head", "tail"))
    assert 4 <= variants < torch._dynamo.config.recompile_limit


def test_the_strong_peer_reads_only_what_the_same_run_wrote() -> None:
    """And writes nothing that no later evaluation reads: those caches stay poisoned."""
    model, schedule = toy_dit(), random_schedule(6, 6, seed=1)
    with torch.no_grad():
        peer = StrongPeer(model, schedule, 1, lambda f: f, lambda run: run)
        noise, y = torch.randn(1, 4, 8, 8), torch.tensor([3])
        peer.kept.fill_(torch.nan)
        assert peer(noise, y).isfinite().all()
        full = StrongPeer(model, replace(schedule, compute=np.ones((6, 6), bool)), 1,
                          lambda f: f, lambda run: run)  # fmt: skip
        full.kept.fill_(torch.nan)
        full(noise, y)
    assert full.kept.isnan().all()


def test_a_peer_of_another_schedule_is_refused_and_its_file_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = toy_suite(tmp_path, tools=toy_tools(lambda f: f))
    build = PEERS["strong"].build
    other = type("Other", (ToyCase,), {"schedule": lambda self: random_schedule(6, 6, seed=2)})

    def wrong(rig: Any, case: Case, images: int, tools: Any) -> Any:
        built = build(rig, other("dit-toy", "toy/ddim-6"), images, tools)
        return replace(built, reference=("dit-toy", case.schedule()))

    monkeypatch.setitem(PEERS, "strong", replace(PEERS["strong"], build=wrong))
    part = Part("wrong", "peer", partial(peer_part, DIT, 1, "strong"), 0)
    with pytest.raises(AssertionError, match="strong: differs"):
        suite.run(part)
    assert '"failed": "strong: differs' in (tmp_path / "wrong.json").read_text()
    assert not suite.done(part)


# the published program, with a stand-in of its layout


STAND_IN = {
    "DiT/models/__init__.py": "",
    "DiT/models/dynamic_models.py": """
from l2c_rt.models import DiT as Ours
class DiT(Ours):
    def load_ranking(self, path, steps, timestep_map, threshold):
        print("chatter")
        assert path.endswith(f"ckpt/DDIM{steps}_router.pt") and threshold == 0.1
        self.runs = 0
    def reset(self):
        self.runs += 1
""",
    "DiT/diffusion/__init__.py": """
import torch
from l2c_rt.sampling.solvers import ddim
class Diffusion:
    def __init__(self, steps):
        self.table = ddim(steps)
        self.timestep_map = sorted(self.table.timesteps)
    def ddim_sample_loop(self, model, shape, x, *, clip_denoised, model_kwargs, progress, device):
        assert x.shape == shape and not clip_denoised and not progress
        for t, a, b in zip(self.table.timesteps, self.table.a, self.table.b):
            out = model(x, torch.full((len(x),), t), **model_kwargs)
            x = a * x + b * out[:, :4]
        return x
def create_diffusion(steps):
    return Diffusion(int(steps))
""",
}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name, text in STAND_IN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_the_published_program_is_driven_with_our_weights_and_labels(
    clone: Path, dtype: torch.dtype, bound: float, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = toy_rig()
    model = rig.model("dit-toy")
    noise, y = rig.noise(model, 2)
    run = published.run_of(clone, model, 20, dtype)  # type: ignore[arg-type]
    latents = run(noise, y)
    want, _ = rig.reference("dit-toy", None, 20)
    assert latents.dtype == torch.float32
    assert relative_difference(latents, want) < bound
    assert torch.equal(run(noise, y), latents)
    assert capsys.readouterr().out == ""
    assert not {"models", "models.dynamic_models", "diffusion"} & set(sys.modules)
    assert str(clone / "DiT") not in sys.path


def test_what_the_published_program_lacks_is_said(tmp_path: Path) -> None:
    assert published.missing(None) == "no clone given; see --published"
    assert "dynamic_models.py is not there" in published.missing(tmp_path)


def test_tf32_is_as_it_was_afterwards() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    with published.tf32(not before):
        assert torch.backends.cuda.matmul.allow_tf32 is not before
    assert torch.backends.cuda.matmul.allow_tf32 is before


@pytest.mark.parametrize(("steps", "share"), [(50, 0.237), (20, 0.221), (6, 0.4)])
def test_cache_dits_mask_leaves_out_as_much_as_the_schedule(steps: int, share: float) -> None:
    mask = steps_mask(steps, 28, share)
    assert len(mask) == steps
    assert mask[0] == 1
    assert mask.count(0) * 27 / (28 * steps) == pytest.approx(share, abs=0.6 / steps)
