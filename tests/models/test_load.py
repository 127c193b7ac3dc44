"""Published weight files into our models: the configuration is read off, keys are strict."""

from __future__ import annotations

import argparse

import pytest
import torch
from foreign_models import baofff_uvit, facebook_dit
from small_weights import SMALL_DIT, SMALL_UVIT, filled, write

from l2c_rt.models import DiT, UViT, dit, load_dit, load_uvit

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
T, Y = torch.tensor([500, 20]), torch.tensor([3, 10])


@pytest.fixture
def good(tmp_path):
    """A small DiT file of the published layout."""
    return write(tmp_path / "dit.pt", filled(DiT, SMALL_DIT).state_dict())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"patch_size": 1, "in_channels": 3},
        {"learn_sigma": False},
        # 61 hidden units: int(28 * (61 / 28)) is 60.
        {"hidden_size": 28, "mlp_ratio": 61.5 / 28},
    ],
    ids=str,
)
def test_a_published_dit_file_loads_and_computes_the_same(tmp_path, suffix, variant):
    model = filled(facebook_dit.DiT, SMALL_DIT | variant)
    path = write(tmp_path / f"w{suffix}", model.state_dict())
    loaded = load_dit(path, num_heads=2)
    x = X[:, : model.in_channels]
    assert torch.equal(loaded(x, T, Y), model(x, T, Y))
    assert not loaded.training
    assert [p.requires_grad for p in loaded.parameters()].count(False) == 1


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "variant",
    [{}, {"conv": False}, {"mlp_time_embed": True}, {"qkv_bias": True}, {"skip": False},
     {"num_classes": -1}, {"depth": 6, "patch_size": 1}],
    ids=str,
)  # fmt: skip
def test_a_published_uvit_file_loads_and_computes_the_same(tmp_path, suffix, variant):
    model = filled(baofff_uvit.UViT, SMALL_UVIT | variant)
    path = write(tmp_path / f"w{suffix}", model.state_dict())
    y = None if model.num_classes < 0 else Y
    assert torch.equal(load_uvit(path, num_heads=2)(X, T, y), model(X, T, y))


def test_a_training_checkpoint_gives_its_ema_weights(tmp_path):
    model = filled(DiT, SMALL_DIT)
    optimizer = torch.optim.AdamW(model.parameters())
    model(X, T, Y).sum().backward()
    optimizer.step()
    averaged = filled(DiT, SMALL_DIT)
    checkpoint = {
        "model": model.state_dict(),
        "ema": averaged.state_dict(),
        "opt": optimizer.state_dict(),
        "args": argparse.Namespace(model="DiT-S/2", lr=1e-4),
    }
    loaded = load_dit(write(tmp_path / "0001.pt", checkpoint), num_heads=2)
    assert torch.equal(loaded(X, T, Y), averaged(X, T, Y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_float_types_become_float32(tmp_path, dtype, suffix):
    model = filled(DiT, SMALL_DIT).to(dtype)
    loaded = load_dit(write(tmp_path / f"w{suffix}", model.state_dict()), num_heads=2)
    for got, saved in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(got, saved.float())


@pytest.fixture
def defaults():
    """torch's default device and type, put back after the test."""
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_are_float32_on_the_cpu_whatever_torchs_defaults_are(
    tmp_path, suffix, dtype, defaults
):
    path = write(tmp_path / f"w{suffix}", filled(DiT, SMALL_DIT).state_dict())
    torch.set_default_device("meta")
    torch.set_default_dtype(dtype)
    loaded = load_dit(path, num_heads=2)
    tensors = [*loaded.parameters(), *loaded.buffers()]
    assert {(tensor.device.type, tensor.dtype) for tensor in tensors} == {("cpu", torch.float32)}


def test_heads_come_from_the_argument_then_the_name_then_the_header_then_the_width(tmp_path):
    small = SMALL_DIT | {"hidden_size": 384, "num_heads": 6, "depth": 1}
    state = filled(DiT, small).state_dict()
    plain = write(tmp_path / "plain.safetensors", state)
    said = write(tmp_path / "said.safetensors", state, num_heads="12")
    assert load_dit(plain).num_heads == 6
    assert load_dit(said).num_heads == 12
    assert load_dit(said, num_heads=3).num_heads == 3
    unknown = write(tmp_path / "unknown.pt", filled(DiT, SMALL_DIT).state_dict())
    with pytest.raises(ValueError, match=r"no published size has width 32; give num_heads="):
        load_dit(unknown)


def test_a_name_is_checked_against_the_file(good):
    with pytest.raises(ValueError, match=r"\(2, 32, 2\), but DiT-S/2 has \(12, 384, 2\)"):
        load_dit(good, "DiT-S/2")
    with pytest.raises(ValueError, match=r"unknown size 'dit-q-2'"):
        load_dit(good, "dit-q-2")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.1.mlp.fc2.bias"), r"missing: blocks\.1\.mlp\.fc2\.bias"),
        (lambda s: s.update(lora=torch.ones(2)), r"unexpected: lora"),
        (lambda s: s.update({"final_layer.linear.bias": torch.ones(3)}),
         r"mis-shaped: final_layer\.linear\.bias \(3,\) \(wanted \(32,\)\)"),
        (lambda s: s.pop("pos_embed"), r"no pos_embed"),
        (lambda s: s.update(pos_embed=torch.ones(1, 15, 32)), r"patches, which are not a square"),
        (lambda s: s.update(pos_embed=torch.ones(1, 16)), r"shape \(1, 16\), wanted 3 axes"),
        (lambda s: s.update({"x_embedder.proj.weight": torch.ones(0, 4, 2, 2)}),
         r"shape \(0, 4, 2, 2\), wanted 4 axes, none of them empty"),
        (lambda s: s.update(pos_embed=torch.ones(1, 16, 32, dtype=torch.int64)), r"are not F"),
        (lambda s: s.update({"x_embedder.proj.weight": torch.ones(32, 4, 1, 2)}),
         r"\(32, 4, 1, 2\), whose patches are not square"),
        (lambda s: s.update({"blocks.0.attn.qkv.weight": torch.ones(1, 1 << 16)}),
         r"\(1, 65536\), wanted three times as many rows"),
        (lambda s: s.clear(), r"no tensors|damaged"),
    ],
)  # fmt: skip
def test_wrong_keys_and_shapes_are_named(tmp_path, suffix, change, message):
    state = dict(filled(DiT, SMALL_DIT).state_dict())
    change(state)
    path = write(tmp_path / f"w{suffix}", state)
    with pytest.raises(ValueError, match=message) as raised:
        load_dit(path, num_heads=2)
    assert str(path) in str(raised.value)


def test_many_wrong_keys_are_counted_not_listed(tmp_path):
    state = {k: v for k, v in filled(DiT, SMALL_DIT).state_dict().items() if not k.endswith("bias")}
    with pytest.raises(ValueError, match=r"missing: .* and 12 more$"):
        load_dit(write(tmp_path / "w.pt", state), num_heads=2)


def test_the_other_family_is_refused_with_what_the_file_has(tmp_path):
    path = write(tmp_path / "uvit.pt", filled(UViT, SMALL_UVIT).state_dict())
    with pytest.raises(ValueError, match=r"no blocks.0.attn.qkv.weight; the file has pos_embed"):
        load_dit(path, num_heads=2)


def test_a_file_with_more_blocks_than_any_model_is_refused_before_a_model_is_built(tmp_path):
    state = filled(DiT, SMALL_DIT).state_dict()
    state |= {f"blocks.{i}.x": torch.zeros(()) for i in range(1001)}
    with pytest.raises(ValueError, match=r"1001 blocks, wanted 1\.\.1000"):
        load_dit(write(tmp_path / "w.pt", state), num_heads=2)


@pytest.mark.slow
def test_dit_xl_2_loads_strictly_from_a_published_size_file(tmp_path):
    with torch.device("meta"):
        shapes = dit("dit-xl-2").state_dict()
    state = {key: torch.zeros(value.shape, dtype=torch.float16) for key, value in shapes.items()}
    model = load_dit(write(tmp_path / "xl.pt", state), "dit-xl-2")
    assert sum(p.numel() for p in model.parameters()) == 675_129_632
