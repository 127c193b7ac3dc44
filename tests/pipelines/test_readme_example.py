"""The pipeline example of README.md, run as it stands with a tiny FLUX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers_pipelines import PIPELINES, embeds

README = Path(__file__).parents[2] / "README.md"


def example() -> str:
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.DOTALL | re.M)
    (code,) = [block for block in blocks if "rt.enable" in block]
    return code


def tiny_flux() -> Any:
    """A whole FLUX but for the text encoders; it is not moved, and draws 64 x 64 pixels."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,) * 4, norm_num_groups=2, latent_channels=1, shift_factor=0.0,
        scaling_factor=1.0, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    pipe = PIPELINES["FluxPipeline"].build("FluxPipeline", vae=vae.eval())
    pipe.default_sample_size = 8
    pipe.encode_prompt = lambda **_: (embeds(1, 7, 32), embeds(1, 32), torch.zeros(7, 3))
    pipe.to = lambda device: pipe
    return pipe


def test_the_example_draws_a_picture_and_prints_a_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    pipe = tiny_flux()
    original = pipe.transformer
    monkeypatch.setattr(diffusers.FluxPipeline, "from_pretrained", lambda *_, **__: pipe)
    code = example()
    assert len(code.splitlines()) <= 10
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(code, str(README), "exec"), names)
    assert names["image"].size == (64, 64)
    assert np.asarray(names["image"]).std() > 0
    printed = capsys.readouterr().out
    assert "28 evaluations" in printed
    assert "1 complete, 0 abandoned, 28 calls" in printed
    assert pipe.transformer is original
