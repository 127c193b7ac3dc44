"""Weight files as files: what is damaged, hostile or not weights is a ValueError."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict
from unittest.mock import MagicMock

import pytest
import torch
from small_weights import SMALL_DIT, filled, write

from l2c_rt.models import DiT, load_dit
from l2c_rt.models.weight_files import open_weights
from l2c_rt.untrusted.torch_zip import TorchArchive

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
ANCHOR = "blocks.0.attn.qkv.weight"
T, Y = torch.tensor([500, 20]), torch.tensor([3, 10])


@pytest.fixture
def good(tmp_path):
    """A small DiT file of the published layout."""
    return write(tmp_path / "dit.pt", filled(DiT, SMALL_DIT).state_dict())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_loaded_weights_do_not_depend_on_the_file(tmp_path, suffix):
    path = write(tmp_path / f"w{suffix}", filled(DiT, SMALL_DIT).state_dict())
    loaded = load_dit(path, num_heads=2)
    before = loaded(X, T, Y)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(loaded(X, T, Y), before)


def test_files_that_hold_no_weights_are_refused(tmp_path):
    for content in ([1, 2], {"model": {}, "step": 3}, {1: torch.ones(1)}, {"ema": {"a": 1}}):
        with pytest.raises(ValueError, match=r"wanted a (state )?dict"):
            load_dit(write(tmp_path / "w.pt", content))
    with pytest.raises(ValueError, match=r"weight file ends in one of \.safetensors, \.pt, "):
        load_dit(tmp_path / "w.gguf")
    with pytest.raises(FileNotFoundError):
        load_dit(tmp_path / "absent.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.pt: not a zip"):
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
        (
            b"K\x60tq",
            r"claims 1099511627776 elements, .* the file holds 384",
        ),
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
    path = write(tmp_path / "w.pt", {f"t{i}": shared for i in range(99)} | {ANCHOR: shared})
    assert path.stat().st_size < 1 << 19
    with pytest.raises(ValueError, match=r"claim 26214400 bytes, but the file has"):
        load_dit(path)


def test_expanded_and_strided_tensors_are_refused(tmp_path):
    state = filled(DiT, SMALL_DIT).state_dict()
    state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"].T.contiguous().T
    with pytest.raises(ValueError, match=r"qkv.weight is a strided view"):
        load_dit(write(tmp_path / "w.pt", state), num_heads=2)
    with pytest.raises(ValueError, match=r"claim"):
        load_dit(write(tmp_path / "w.pt", {ANCHOR: torch.ones(1).expand(1 << 40)}))


def test_a_changed_weight_fails_its_checksum(good):
    whole = good.read_bytes()
    at = whole.index(filled(DiT, SMALL_DIT).blocks[0].attn.qkv.bias.detach().numpy().tobytes())
    good.write_bytes(whole[:at] + b"\x00\x00\x80\x3f" + whole[at + 4 :])
    with pytest.raises(ValueError, match=r"blocks.0.attn.qkv.bias: .*damaged"):
        load_dit(good, num_heads=2)


def test_a_big_endian_file_is_refused(good):
    with pytest.raises(ValueError, match="not little-endian"):
        load_dit(rewritten(good, b"little", b"big", record="byteorder"), num_heads=2)


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


def test_only_the_tensors_that_are_asked_for_are_read(tmp_path, monkeypatch):
    path = write(tmp_path / "w.pt", {"x.a": torch.ones(1 << 20), "x.b": torch.zeros(3, 1)})
    read = MagicMock(wraps=TorchArchive.read)
    monkeypatch.setattr(TorchArchive, "read", lambda *args: read(*args))
    with open_weights(path, "b") as weights:
        assert weights.shapes == {"a": (1 << 20,), "b": (3, 1)}
        assert torch.equal(weights.read("b"), torch.zeros(3, 1))
    assert [call.args[1] for call in read.call_args_list] == ["byteorder", "data.pkl", "data/1"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_pipe_is_refused_without_being_opened(tmp_path, suffix):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    with pytest.raises(ValueError, match="not a regular file"):
        load_dit(tmp_path / f"pipe{suffix}")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("change", ["shrinks", "is written to"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, suffix, change):
    path = write(tmp_path / f"w{suffix}", {"a": torch.ones(1 << 20), "b": torch.ones(1 << 20)})

    def read_both() -> None:
        with open_weights(path, "b") as weights:
            weights.read("a")
            if change == "shrinks":
                os.truncate(path, 4096)
            else:
                os.utime(path, ns=(0, 0))
            weights.read("b")

    with pytest.raises(ValueError, match=rf"w{suffix}: .*(changed|truncated|before a tensor does)"):
        read_both()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_reading_takes_the_memory_of_one_tensor_beside_the_model(tmp_path, suffix):
    path = write(tmp_path / f"w{suffix}", {f"x.{k}": torch.ones(1 << 18) for k in range(40)})
    with open_weights(path, "0") as weights:
        tracemalloc.start()
        for name in weights.shapes:
            weights.read(name)
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
        tracemalloc.stop()
