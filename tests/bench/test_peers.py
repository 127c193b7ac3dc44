"""What our runs are compared with, at toy size on a CPU: each computes what it should."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cpu_suite import CPU, DIT, UVIT, ToyCase, toy_rig
from gpu import published
from gpu.cache_dit_peer import steps_mask
from gpu.loop import capture_on
from gpu.measurements import peer_result
from gpu.models import relative_difference
from gpu.peers import PEERS
from gpu.strong_peer import StrongPeer
from toys import random_schedule, toy_dit

from l2c_rt.presets import load

UNCHANGED: Callable[..., Callable[..., object]] = lambda function: function  # noqa: E731


@pytest.mark.parametrize(
    ("case", "name"),
    [(DIT, "eager"), (DIT, "compiled"), (DIT, "strong"), (UVIT, "eager"), (UVIT, "compiled")],
    ids=lambda value: getattr(value, "model", value),
)
def test_a_peer_computes_the_reference(case: ToyCase, name: str) -> None:
    result = peer_result(toy_rig(), case, 2, name)
    assert all(found["difference"] <= 1e-5 for found in result["differences"].values())
    assert len(result["samples"][name]) == len(result["samples"]["cached"]) == 2


def test_diffusers_dit_compiled_computes_its_own_reference() -> None:
    pytest.importorskip("diffusers")
    result = peer_result(toy_rig(compile=UNCHANGED), DIT, 2, "diffusers")
    assert result["differences"]["diffusers"]["difference"] <= 1e-5


@pytest.mark.parametrize("name", ["cache-dit", "cache-dit-compiled"])
def test_cache_dit_caches_as_many_steps_as_asked(name: str) -> None:
    pytest.importorskip("cache_dit")
    result = peer_result(toy_rig(), DIT, 2, name)
    assert result["facts"]["cached_steps"] > 0
    assert 0 < result["differences"][name]["difference"] < 1


@pytest.mark.parametrize(("steps", "share"), [(50, 0.237), (20, 0.221), (6, 0.4)])
def test_cache_dits_mask_leaves_out_as_much_as_the_schedule(steps: int, share: float) -> None:
    mask = steps_mask(steps, 28, share)
    assert len(mask) == steps
    assert mask[0] == 1
    assert mask.count(0) * 27 / (28 * steps) == pytest.approx(share, abs=0.6 / steps)


def test_a_missing_package_or_clone_is_said(tmp_path: Path) -> None:
    rig = toy_rig()
    assert replace(PEERS["diffusers"], needs=("no_such",)).missing(rig) == "no_such not installed"
    assert PEERS["published"].missing(rig) == "no clone given; see --published"
    rig.published = tmp_path
    assert "dynamic_models.py is not there" in PEERS["published"].missing(rig)


# the strong peer


def test_peers_in_bfloat16_stay_within_twice_the_eager_error() -> None:
    result = peer_result(toy_rig(torch.bfloat16, compile=UNCHANGED), DIT, 2, "strong")
    found = result["differences"]["strong"]
    assert 1e-4 < found["difference"] <= found["allowed"] < 0.2


@pytest.mark.parametrize("preset", ["ddim-20", "ddim-50"])
def test_the_strong_peer_captures_every_distinct_step_once(preset: str) -> None:
    schedule, captured = load(f"l2c/dit-xl-2-256/{preset}"), []

    def capture(run: Callable[[], object]) -> Callable[[], object]:
        captured.append(run)
        return run

    StrongPeer(toy_dit(depth=28), schedule, 1, UNCHANGED, capture)
    assert len(captured) == len(schedule.distinct_rows()) == {"ddim-20": 7, "ddim-50": 14}[preset]


def test_the_strong_peer_reads_only_what_the_same_run_wrote() -> None:
    """And writes nothing that no later step reads: those caches stay poisoned."""
    model, schedule = toy_dit(), random_schedule(6, 6, seed=1)
    full = replace(schedule, compute=np.ones((6, 6), bool))
    noise, y = torch.randn(1, 4, 8, 8), torch.tensor([3])
    with torch.no_grad():
        cached, uncached = (
            StrongPeer(model, s, 1, UNCHANGED, capture_on(CPU)) for s in (schedule, full)
        )
        for peer in (cached, uncached):
            peer.cache.fill_(torch.nan)
            assert peer(noise, y).isfinite().all()
    assert not cached.cache.isnan().all()
    assert uncached.cache.isnan().all()


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


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_the_published_program_is_driven_with_our_weights_and_labels(
    clone: Path, dtype: torch.dtype, allowed: float, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = toy_rig()
    model = rig.model("dit-toy")
    noise, y = rig.noise(model, 2)
    run = published.run_of(clone, model, 20, dtype)  # type: ignore[arg-type]
    tf32 = torch.backends.cuda.matmul.allow_tf32
    latents = run(noise, y)
    assert torch.backends.cuda.matmul.allow_tf32 == tf32
    expected, _ = rig.reference("dit-toy", None, 20)
    assert latents.dtype == torch.float32
    assert relative_difference(latents, expected) < allowed
    assert torch.equal(run(noise, y), latents)
    assert capsys.readouterr().out == ""
    assert not {"models", "models.dynamic_models", "diffusion"} & set(sys.modules)
    assert str(clone / "DiT") not in sys.path
