"""Our model definitions: published names, shapes and counts; the published arithmetic."""

from __future__ import annotations

import pytest
import torch
from foreign_models import baofff_uvit, facebook_dit
from weights import fill_deterministic

from l2c_rt.models import DiT, UViT, dit, uvit
from l2c_rt.models.layers import sincos_pos_embed, timestep_embedding

TINY_DIT = {"input_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 2, "num_classes": 10}
TINY_UVIT = {"img_size": 8, "patch_size": 2, "in_chans": 4, "embed_dim": 32, "depth": 4,
             "num_heads": 2}  # fmt: skip
DIT_VARIANTS = {
    "latent": {},
    "one channel, no patches": {"patch_size": 1, "in_channels": 1},
    "noise only": {"learn_sigma": False},
    "no null class": {"class_dropout_prob": 0.0},
    "wide mlp": {"mlp_ratio": 2.5, "patch_size": 4},
}
UVIT_VARIANTS = {
    "latent": {"num_classes": 11, "conv": False},
    "unconditional": {"num_classes": -1},
    "time mlp and final conv": {"num_classes": 11, "mlp_time_embed": True, "conv": True},
    "biased qkv": {"num_classes": 11, "qkv_bias": True},
    "no long skips": {"num_classes": 11, "skip": False},
}


def dit_shapes(width: int, depth: int, tokens: int, patch: int, rows: int) -> dict:
    shapes = {"pos_embed": (1, tokens, width)}
    shapes |= linear("x_embedder.proj", width, 4, patch, patch)
    shapes |= linear("t_embedder.mlp.0", width, 256) | linear("t_embedder.mlp.2", width, width)
    shapes["y_embedder.embedding_table.weight"] = (rows, width)
    for i in range(depth):
        shapes |= linear(f"blocks.{i}.attn.qkv", 3 * width, width)
        shapes |= linear(f"blocks.{i}.attn.proj", width, width)
        shapes |= linear(f"blocks.{i}.mlp.fc1", 4 * width, width)
        shapes |= linear(f"blocks.{i}.mlp.fc2", width, 4 * width)
        shapes |= linear(f"blocks.{i}.adaLN_modulation.1", 6 * width, width)
    shapes |= linear("final_layer.linear", 8 * patch * patch, width)
    return shapes | linear("final_layer.adaLN_modulation.1", 2 * width, width)


def uvit_shapes(width: int, depth: int, tokens: int, patch: int, rows: int) -> dict:
    shapes = {"pos_embed": (1, tokens + 2, width), "label_emb.weight": (rows, width)}
    shapes |= linear("patch_embed.proj", width, 4, patch, patch)
    half = range(depth // 2)
    blocks = [f"in_blocks.{i}" for i in half] + ["mid_block"] + [f"out_blocks.{i}" for i in half]
    for block in blocks:
        shapes |= linear(f"{block}.norm1", width) | linear(f"{block}.norm2", width)
        shapes[f"{block}.attn.qkv.weight"] = (3 * width, width)
        shapes |= linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", 4 * width, width)
        shapes |= linear(f"{block}.mlp.fc2", width, 4 * width)
        if block.startswith("out"):
            shapes |= linear(f"{block}.skip_linear", width, 2 * width)
    return shapes | linear("norm", width) | linear("decoder_pred", 4 * patch * patch, width)


def linear(name: str, *weight: int) -> dict:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def on_meta(build, name: str, **options):
    with torch.device("meta"):
        return build(name, **options)


def shapes_of(model) -> dict:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def inputs(channels: int, classes: int | None = 10):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, channels, 8, 8, generator=generator)
    y = None if classes is None else torch.tensor([0, 3, classes - 1, classes])
    return x, torch.tensor([999, 500, 20, 0]), y


def test_dit_xl_2_has_the_published_parameter_names_and_shapes():
    model = on_meta(dit, "dit-xl-2")
    assert shapes_of(model) == dit_shapes(1152, 28, tokens=256, patch=2, rows=1001)


def test_uvit_h_2_has_the_published_parameter_names_and_shapes():
    model = on_meta(uvit, "U-ViT-H/2")
    assert shapes_of(model) == uvit_shapes(1152, 28, tokens=256, patch=2, rows=1001)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("DiT-XL/2", 675.1), ("DiT-L/2", 458.1), ("DiT-B/4", 130.5), ("DiT-S/8", 33.1)],
)
def test_dit_sizes_have_the_published_parameter_counts(name, millions):
    count = sum(p.numel() for p in on_meta(dit, name).parameters())
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("name", "millions"), [("uvit-h-2", 501), ("uvit-h-4", 501), ("uvit-l-2", 287)]
)
def test_uvit_sizes_have_the_published_parameter_counts(name, millions):
    count = sum(p.numel() for p in on_meta(uvit, name).parameters())
    assert round(count / 1e6) == millions


def test_an_unknown_size_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown size 'dit-xxl-2'.*dit-xl-2"):
        dit("dit-xxl-2")
    with pytest.raises(ValueError, match=r"unknown size 'uvit-g-2'.*uvit-h-2"):
        uvit("uvit-g-2")


@pytest.mark.parametrize("variant", DIT_VARIANTS)
def test_dit_is_bitwise_the_published_class(variant):
    config = TINY_DIT | DIT_VARIANTS[variant]
    ours, theirs = DiT(**config).eval(), facebook_dit.DiT(**config).eval()
    fill_deterministic(theirs, seed=1)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, t, y = inputs(config.get("in_channels", 4), 10 if variant != "no null class" else 9)
    assert torch.equal(ours(x, t, y), theirs(x, t, y))
    guided = ours.forward_with_cfg(x, t, y, 1.5)
    assert torch.equal(guided, theirs.forward_with_cfg(x, t, y, 1.5))


@pytest.mark.parametrize("variant", UVIT_VARIANTS)
def test_uvit_is_bitwise_the_published_class(variant):
    config = TINY_UVIT | UVIT_VARIANTS[variant]
    ours, theirs = UViT(**config).eval(), baofff_uvit.UViT(**config).eval()
    fill_deterministic(theirs, seed=1)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, t, y = inputs(4, None if variant == "unconditional" else 10)
    times = t + 0.50003
    assert torch.equal(ours(x, times, y), theirs(x, times, y))


def test_guidance_reads_the_first_half_and_acts_on_three_channels():
    model = DiT(**TINY_DIT).eval()
    fill_deterministic(model, seed=1)
    x, t, _ = inputs(4)
    y = torch.tensor([1, 2, 10, 10])
    plain = model(torch.cat([x[:2], x[:2]]), t, y)
    x[2:] = float("nan")
    guided = model.forward_with_cfg(x, t, y, 4.0)
    assert torch.equal(guided[:, 3:], plain[:, 3:])
    assert torch.equal(guided[:2, :3], plain[2:, :3] + 4.0 * (plain[:2, :3] - plain[2:, :3]))
    assert torch.equal(guided[2:, :3], guided[:2, :3])


def test_a_fresh_dit_predicts_zero_and_its_blocks_are_the_identity():
    model = DiT(**TINY_DIT).eval()
    x, t, y = inputs(4)
    assert not model(x, t, y).any()
    tokens = torch.randn(2, 16, 32)
    assert torch.equal(model.blocks[0](tokens, torch.randn(2, 32)), tokens)


def test_training_mode_drops_labels_at_the_given_rate_and_nothing_else():
    model = DiT(**(TINY_DIT | {"class_dropout_prob": 0.25})).train()
    labels = torch.zeros(4000, dtype=torch.int64)
    rows = model.y_embedder(labels, train=True)
    dropped = (rows == model.y_embedder.embedding_table.weight[10]).all(dim=1)
    assert abs(dropped.float().mean() - 0.25) < 0.03
    assert not any(isinstance(module, torch.nn.Dropout) for module in model.modules())
    always_labelled = DiT(**(TINY_DIT | {"class_dropout_prob": 0.0})).train()
    fill_deterministic(always_labelled, seed=1)
    x, t, y = inputs(4, 9)
    assert torch.equal(always_labelled(x, t, y), always_labelled.eval()(x, t, y))


def test_uvit_refuses_a_missing_or_surplus_label():
    x, t, y = inputs(4)
    with pytest.raises(ValueError, match="num_classes=11, but y is None"):
        UViT(**TINY_UVIT, num_classes=11)(x, t)
    with pytest.raises(ValueError, match=r"num_classes=-1, but y is \(4,\)"):
        UViT(**TINY_UVIT)(x, t, y)


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (DiT, TINY_DIT | {"input_size": 9}),
        (DiT, TINY_DIT | {"num_heads": 5}),
        (DiT, TINY_DIT | {"hidden_size": 30, "num_heads": 3}),
        (UViT, TINY_UVIT | {"img_size": 9}),
        (UViT, TINY_UVIT | {"num_heads": 5}),
        (UViT, TINY_UVIT | {"depth": 3}),
    ],
)
def test_sizes_that_do_not_fit_are_refused(build, config):
    with pytest.raises(ValueError, match=r"is (odd|not)"):
        build(**config)


def test_positions_are_sines_and_cosines_of_column_then_row():
    table = sincos_pos_embed(8, grid=3).reshape(3, 3, 8).double()
    row, column, slow = 2, 1, 0.01
    expected = [f(p * w) for p in (column, row) for f in (torch.sin, torch.cos)
                for w in (torch.tensor(1.0).double(), torch.tensor(slow).double())]  # fmt: skip
    torch.testing.assert_close(table[row, column], torch.stack(expected), atol=1e-7, rtol=0)


def test_timestep_embedding_is_cosines_then_sines_in_float32():
    t = torch.tensor([3.5], dtype=torch.float64)
    got = timestep_embedding(t, 4)
    expected = [torch.cos(t), torch.cos(t * 0.01), torch.sin(t), torch.sin(t * 0.01)]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), torch.stack(expected, dim=1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_run_in_half_precision(dtype):
    x, t, y = inputs(4)
    for model in (DiT(**TINY_DIT), UViT(**TINY_UVIT, num_classes=11, mlp_time_embed=True)):
        fill_deterministic(model, seed=1)
        full = model.eval()(x, t, y)
        half = model.to(dtype)(x.to(dtype), t, y)
        assert half.dtype == dtype
        assert (half.float() - full).norm() < 0.1 * full.norm()
