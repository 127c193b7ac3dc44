"""Weight files: published layouts load strictly, everything else is a ValueError."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from copy import copy

import pytest
import torch
from foreign_models import baofff_uvit, facebook_dit
from safetensors.torch import save_file
from weights import fill_deterministic

from l2c_rt.models import DiT, UViT, dit, load_dit, load_uvit
from l2c_rt.models.weight_files import open_weights

SMALL_DIT = {"input_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 2, "num_classes": 10}
SMALL_UVIT = {"img_size": 8, "patch_size": 2, "in_chans": 4, "num_classes": 11}
SMALL_UVIT |= {"embed_dim": 32, "depth": 2, "num_heads": 2}
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
T, Y = torch.tensor([500, 20]), torch.tensor([3, 10])


def filled(build, config):
    model = build(**config).eval()
    fill_deterministic(model, seed=3)
    return model


def write(path, state, **header):
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path, metadata=header or None)
    else:
        torch.save(state, path)
    return path


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
    for got, wanted in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(got, wanted.float())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_loaded_weights_do_not_depend_on_the_file(tmp_path, suffix):
    path = write(tmp_path / f"w{suffix}", filled(DiT, SMALL_DIT).state_dict())
    loaded = load_dit(path, num_heads=2)
    before = loaded(X, T, Y)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(loaded(X, T, Y), before)


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
        (lambda s: s.update(pos_embed=torch.ones(1, 15, 32)), r"15 patches, which make no square"),
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


def test_files_that_hold_no_weights_are_refused(tmp_path):
    for content in ([1, 2], {"model": {}, "step": 3}, {1: torch.ones(1)}, {"ema": {"a": 1}}):
        with pytest.raises(ValueError, match=r"wanted a (state )?dict"):
            load_dit(write(tmp_path / "w.pt", content))
    with pytest.raises(ValueError, match=r"weight file ends in one of \.safetensors, \.pt, \.pth"):
        load_dit(tmp_path / "w.ckpt")
    with pytest.raises(FileNotFoundError):
        load_dit(tmp_path / "absent.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"0 bytes are too few"):
        load_dit(tmp_path / "empty.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, suffix):
    config = SMALL_DIT | {"depth": 1, "hidden_size": 8}
    path = write(tmp_path / f"w{suffix}", filled(DiT, config).state_dict())
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 611), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"w\."):
            load_dit(path, num_heads=2)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_bytes_give_a_value_error_or_finite_shapes_but_never_another_exception(
    tmp_path, suffix
):
    config = SMALL_DIT | {"depth": 1, "hidden_size": 8}
    path = write(tmp_path / f"w{suffix}", filled(DiT, config).state_dict())
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        at = int(torch.randint(len(whole), (1,), generator=generator))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with contextlib.suppress(ValueError):
            load_dit(path, num_heads=2)


class Hostile:
    """Pickles to a call of os.system."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def test_a_pickle_that_would_run_code_is_refused_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (
        Hostile(),
        {"ema": {"a": Hostile()}},
        OrderedDict(a=torch.ones(1), b=Hostile()),
    ):
        with pytest.raises(ValueError, match=r"system"):
            load_dit(write(tmp_path / "w.pt", content))
    legacy = tmp_path / "legacy.pt"
    legacy.write_bytes(pickle.dumps(Hostile(), protocol=2) + bytes(100))
    with pytest.raises(ValueError, match="zip"):
        load_dit(legacy)
    assert not (tmp_path / "executed").exists()


def rewritten(path, old=b"", new=b"", record="data.pkl", compress=zipfile.ZIP_STORED):
    """The archive again, with `old` in one record replaced once."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    [changed] = [name for name in records if name.endswith(f"/{record}")]
    assert old in records[changed]
    records[changed] = records[changed].replace(old, new, 1)
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("old", "message"),
    [
        (b"K\x60\x85", r"claim \d+ bytes"),
        (b"K\x60tq", r"0\.\.96 of 1099511627776, but the file holds 384 bytes"),
    ],
    ids=["shape", "storage"],
)
def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(good, old, message):
    # 96 (K, x60) is the length of a qkv bias; 2**40 takes its place as the shape or the storage.
    huge = b"\x8a\x06" + (2**40).to_bytes(6, "little")
    changed = rewritten(good, old, huge + old[2:])
    with pytest.raises(ValueError, match=message):
        load_dit(changed, num_heads=2)


def test_tensors_that_share_one_storage_to_claim_more_than_the_file_are_refused(tmp_path):
    shared = torch.ones(1 << 16)
    path = write(tmp_path / "w.pt", {f"t{i}": shared for i in range(100)})
    assert path.stat().st_size < 1 << 19
    with pytest.raises(ValueError, match=r"claim 26214400 bytes, but the file has"):
        load_dit(path)


def test_expanded_and_strided_tensors_are_refused(tmp_path):
    state = filled(DiT, SMALL_DIT).state_dict()
    state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"].T.contiguous().T
    with pytest.raises(ValueError, match=r"qkv.weight is a strided view"):
        load_dit(write(tmp_path / "w.pt", state), num_heads=2)
    with pytest.raises(ValueError, match=r"claim"):
        load_dit(write(tmp_path / "w.pt", {"a": torch.ones(1).expand(1 << 40)}))


def test_a_changed_weight_fails_its_checksum(good):
    whole = good.read_bytes()
    at = whole.index(filled(DiT, SMALL_DIT).blocks[0].attn.qkv.bias.detach().numpy().tobytes())
    good.write_bytes(whole[:at] + b"\x00\x00\x80\x3f" + whole[at + 4 :])
    with pytest.raises(ValueError, match=r"truncated or damaged"):
        load_dit(good, num_heads=2)


def test_records_that_overlap_are_refused(good):
    with zipfile.ZipFile(good, "a") as archive:
        for i in range(len(archive.filelist)):
            again = copy(archive.filelist[i])
            again.filename += "-again"
            archive.filelist.append(again)
        archive.comment = b"written again"
    with pytest.raises(ValueError, match="its records overlap"):
        load_dit(good, num_heads=2)


def test_a_big_endian_file_is_refused(good):
    with pytest.raises(ValueError, match="not little-endian"):
        load_dit(rewritten(good, b"little", b"big", record="byteorder"), num_heads=2)


def test_a_compressed_archive_is_refused(good):
    with pytest.raises(ValueError, match="compressed, as torch never saves"):
        load_dit(rewritten(good, compress=zipfile.ZIP_DEFLATED), num_heads=2)


def test_a_safetensors_header_that_claims_terabytes_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    entry = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    header = json.dumps({"pos_embed": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="damaged safetensors"):
        load_dit(path)
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="damaged safetensors"):
        load_dit(path)


def test_a_file_with_more_blocks_than_any_model_is_refused_before_a_model_is_built(tmp_path):
    state = filled(DiT, SMALL_DIT).state_dict()
    state |= {f"blocks.{i}.x": torch.zeros(()) for i in range(1001)}
    with pytest.raises(ValueError, match=r"1001 blocks, wanted 1\.\.1000"):
        load_dit(write(tmp_path / "w.pt", state), num_heads=2)


def test_reading_is_lazy_so_that_a_wrong_file_costs_no_memory(tmp_path):
    path = write(tmp_path / "w.pt", {"a": torch.ones(1 << 20), "b": torch.zeros(3, 1)})
    weights = open_weights(path)
    assert weights.shapes == {"a": (1 << 20,), "b": (3, 1)}
    assert torch.equal(weights.read("b"), torch.zeros(3, 1))


@pytest.mark.slow
def test_dit_xl_2_loads_strictly_from_a_published_size_file(tmp_path):
    with torch.device("meta"):
        shapes = dit("dit-xl-2").state_dict()
    state = {key: torch.zeros(value.shape, dtype=torch.float16) for key, value in shapes.items()}
    model = load_dit(write(tmp_path / "xl.pt", state), "dit-xl-2")
    assert sum(p.numel() for p in model.parameters()) == 675_129_632
