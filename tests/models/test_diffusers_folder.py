"""Folders that diffusers wrote: whole, cut into shards, as variants, inside a pipeline's."""

from __future__ import annotations

import json
import os

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from l2c_rt.models import load_diffusers, load_dit  # noqa: E402

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
T, Y = torch.tensor([500, 20]), torch.tensor([3, 10])


def drawn_model():
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, num_attention_heads=2, attention_head_dim=8,
        in_channels=4, out_channels=8, num_embeds_ada_norm=10, norm_type="ada_norm_zero",
        norm_elementwise_affine=False, attention_bias=True, activation_fn="gelu-approximate",
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


MODEL = drawn_model()


def out(model):
    with torch.no_grad():
        return model(X, timestep=T, class_labels=Y).sample


@pytest.mark.parametrize(
    "options", [{}, {"max_shard_size": "30KB"}, {"variant": "fp16"},
                {"variant": "fp16", "max_shard_size": "30KB"}], ids=str
)  # fmt: skip
def test_a_saved_folder_gives_the_same_model(tmp_path, options):
    MODEL.save_pretrained(tmp_path, **options)
    loaded = load_diffusers(tmp_path, variant=options.get("variant", ""))
    assert torch.equal(out(loaded), out(MODEL))
    assert not loaded.training
    assert not any(value.is_meta for value in (*loaded.parameters(), *loaded.buffers()))


def test_the_folder_of_a_pipeline_has_its_transformer_under_it(tmp_path):
    MODEL.save_pretrained(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text("{}")
    assert torch.equal(out(load_diffusers(tmp_path)), out(MODEL))


def test_half_weights_become_float32(tmp_path):
    half = drawn_model().half()
    half.save_pretrained(tmp_path)
    loaded = load_diffusers(tmp_path)
    for mine, theirs in zip(loaded.parameters(), half.parameters(), strict=True):
        assert torch.equal(mine, theirs.float())


def test_a_configuration_of_the_former_class_is_a_dit(tmp_path):
    MODEL.save_pretrained(tmp_path)
    change(tmp_path, _class_name="Transformer2DModel")
    assert torch.equal(out(load_diffusers(tmp_path)), out(MODEL))


def change(folder, **fields):
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_layers": 40}, r"missing: transformer_blocks\.2\."),
        ({"num_layers": 10**9}, r"config\.json: num_layers is 1000000000, wanted 1\.\.1000"),
        ({"sample_size": -1}, "sample_size is -1"),
        ({"num_layers": 1}, r"unexpected: transformer_blocks\.1\."),
        ({"attention_head_dim": 16}, "mis-shaped"),
        ({"attention_head_dim": None}, "describes no model"),
        ({"norm_type": "ada_norm_single"}, "describes no model|missing"),
        ({"_class_name": "UNet2DModel"}, "describes a 'UNet2DModel', wanted a DiTTr"),
        ({"_class_name": "Transformer2DModel", "norm_type": "layer_norm"}, "no DiT"),
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_that_is_not_the_weights_is_refused(tmp_path, fields, message):
    MODEL.save_pretrained(tmp_path)
    change(tmp_path, **fields)
    with pytest.raises(ValueError, match=message) as raised:
        load_diffusers(tmp_path)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "..", 3, None])
def test_shards_outside_the_folder_are_refused(tmp_path, name):
    MODEL.save_pretrained(tmp_path, max_shard_size="30KB")
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"proj_out_1.weight": name}}))
    with pytest.raises((ValueError, OSError), match=r"not files of the folder|regular file"):
        load_diffusers(tmp_path)


def test_a_missing_shard_or_no_weights_at_all_are_named(tmp_path):
    MODEL.save_pretrained(tmp_path, max_shard_size="30KB")
    shard = sorted(tmp_path.glob("*-00002-of-*"))[0]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=shard.name):
        load_diffusers(tmp_path)
    os.remove(tmp_path / "diffusion_pytorch_model.safetensors.index.json")
    with pytest.raises(ValueError, match="no diffusion_pytorch_model.safetensors, nor .*variant"):
        load_diffusers(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_diffusers(tmp_path / "absent")


def test_load_dit_names_the_function_for_folders(tmp_path):
    with pytest.raises(ValueError, match="a folder; l2c_rt.models.load_diffusers takes those"):
        load_dit(tmp_path)
