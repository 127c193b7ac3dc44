"""Router files: the two published formats and ours, good and damaged."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from router_files import archive, dit_pickle, drawn_logits, saved, text, uvit_pickle
from strategies import routers

from l2c_rt.families import FAMILIES
from l2c_rt.policies.router import Router

LOGITS = drawn_logits()


@pytest.mark.parametrize(
    ("name", "content", "family"),
    [
        ("router.pt", archive(dit_pickle(LOGITS), LOGITS), "dit"),
        ("router.pth", archive(uvit_pickle(LOGITS), LOGITS), "uvit"),
    ],
)
def test_both_published_formats_are_told_apart(tmp_path, name, content, family):
    router = Router.load(saved(tmp_path, content, name))
    np.testing.assert_array_equal(router.logits, LOGITS)
    assert (router.family, router.steps, router.source) == (family, 10, name)
    assert router.sampler == FAMILIES[family].sampler
    assert router.branches[:3] == ("attn-0", "mlp-0", "attn-1")
    schedule = router.schedule()
    published = FAMILIES[family]
    assert schedule.calls_per_step == published.calls_per_step
    assert schedule.threshold == published.threshold


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_what_torch_saves_today_is_read(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    table = OrderedDict(
        (f"{k}.prob", torch.tensor(row, dtype=getattr(torch, dtype)))
        for k, row in enumerate(LOGITS)
    )
    args = argparse.Namespace(lr=0.001, ste_threshold=None, model="DiT-S/2", unknown=[1, (2,)])
    optimizer = torch.optim.AdamW(table.values(), lr=1e-3)
    torch.save(
        {"routers": table, "opt": optimizer.state_dict(), "args": args}, tmp_path / "router.pt"
    )
    router = Router.load(tmp_path / "router.pt")
    np.testing.assert_array_equal(router.logits, LOGITS.astype(dtype).astype(np.float32))
    assert json.loads(router.training) == {"lr": 0.001, "ste_threshold": None, "model": "DiT-S/2"}


def test_rows_that_are_views_of_one_storage_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    whole = torch.tensor(LOGITS)
    torch.save({f"{k}.prob": whole[k] for k in range(10)}, tmp_path / "router.pth")
    np.testing.assert_array_equal(Router.load(tmp_path / "router.pth").logits, LOGITS)


def test_big_endian_records_are_read(tmp_path):
    path = tmp_path / "big.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("router/data.pkl", uvit_pickle(LOGITS))
        file.writestr("router/byteorder", "big")
        for k, row in enumerate(LOGITS):
            file.writestr(f"router/data/{k}", row.astype(">f4").tobytes())
    np.testing.assert_array_equal(Router.load(path).logits, LOGITS)


def test_reading_a_published_file_imports_no_torch(tmp_path):
    path = saved(tmp_path, archive(dit_pickle(LOGITS), LOGITS))
    code = f"import sys; from l2c_rt.policies.router import Router; Router.load({str(path)!r}); "
    code += "sys.exit('torch' in sys.modules)"
    paths = os.pathsep.join(filter(None, sys.path))
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths})
    assert run.returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 20}, "steps: 10, wanted 20"),
        ({"depth": 28}, "branches per row: 8, wanted 56; a router fits the model"),
        ({"branches": ("a",) * 8}, "branches: "),
        ({"family": "uvit", "steps": 20}, "steps: 10, wanted 20"),
        ({"family": "sdxl"}, "family is 'sdxl'"),
    ],
)
def test_a_router_for_another_run_is_rejected_with_the_file_named(tmp_path, options, message):
    path = saved(tmp_path, archive(dit_pickle(LOGITS), LOGITS))
    with pytest.raises(ValueError, match=message) as caught:
        Router.load(path, **options)
    assert str(path) in str(caught.value)


GOOD = archive(dit_pickle(LOGITS), LOGITS)


def with_nan(row: int) -> bytes:
    logits = LOGITS.copy()
    logits[row, 0] = np.nan
    return archive(dit_pickle(logits), logits)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes.*it is empty"),
        (b"hello", "not a zip archive"),
        (GOOD[:-1], "truncated"),
        (archive(b"\x80\x02N.", LOGITS), "holds a NoneType"),
        (archive(b"\x80\x02}.", LOGITS), r"dict of 1\.\.10000 rows"),
        (archive(dit_pickle(LOGITS, steps=20), LOGITS), "say 20 sampling steps; it has 10 rows"),
        (archive(dit_pickle(LOGITS), LOGITS[:9]), "record 'data/9' is missing"),
        (archive(dit_pickle(LOGITS), LOGITS[:, :7]), "storage '0' claims 8.*holds 28 bytes"),
        (archive(dit_pickle(LOGITS, kind="Long"), LOGITS), "of LongStorage, wanted"),
        (with_nan(4), r"row 4 \(evaluation 5\), attn-0: the score is nan"),
        (archive(b"\x80\x02}" + text("a.prob") + b"K\x01s.", LOGITS), "rows are not named"),
        (archive(b"\x80\x02}" + text("0.prob") + b"K\x01s.", LOGITS), "0.prob is not a tensor"),
        (archive(dit_pickle(LOGITS, offset=b"K\x01"), LOGITS), r"takes 1\.\.9; the file"),
    ],
)
def test_a_damaged_file_is_rejected_with_the_file_named(tmp_path, content, message):
    path = saved(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        Router.load(path)
    assert str(path) in str(caught.value)


def test_a_row_that_is_not_used_may_hold_anything(tmp_path):
    assert Router.load(saved(tmp_path, with_nan(5))).schedule().steps == 10


def test_an_unknown_suffix_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"ends in one of \.pt, \.pth, \.safetensors"):
        Router.load(saved(tmp_path, GOOD, "router.bin"))


@given(router=routers())
def test_a_saved_router_loads_as_it_was(router, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "router.safetensors"
    router.save(path)
    loaded = Router.load(path)
    np.testing.assert_array_equal(loaded.logits, router.logits)
    for field in fields(router):
        if field.name != "logits":
            assert getattr(loaded, field.name) == getattr(router, field.name)


def test_own_names_and_training_survive_the_file(tmp_path):
    training = json.dumps({"lr": 0.1, "log": ["a", None]})
    router = Router(np.zeros((2, 3)), "dit", 2, ("q", 'k"', "v"), "my-loop", "me", training)
    router.save(tmp_path / "r.safetensors")
    loaded = Router.load(tmp_path / "r.safetensors", branches=("q", 'k"', "v"))
    assert (loaded.sampler, loaded.source, loaded.training) == ("my-loop", "me", training)


def test_a_router_is_saved_as_safetensors_only(tmp_path):
    with pytest.raises(ValueError, match=r"saved as \.safetensors, not '\.pt'"):
        Router(np.zeros((2, 2)), "dit", 2).save(tmp_path / "router.pt")


def own(**changes: str | None) -> bytes:
    """A .safetensors file whose header fields are changed, or dropped where None."""
    import safetensors.numpy

    header = {"format": "l2c_rt.router", "version": "1", "family": "dit", "steps": "10"}
    header |= {"branches": json.dumps([f"b{k}" for k in range(8)])}
    header |= {name: value for name, value in changes.items() if value is not None}
    header = {name: v for name, v in header.items() if changes.get(name, "") is not None}
    return safetensors.numpy.save({"logits": LOGITS}, header)


def other_tensors(tensors: dict[str, np.ndarray], header: bool = True) -> bytes:
    import safetensors.numpy

    fields = {"format": "l2c_rt.router", "version": "1", "family": "dit", "steps": "10"}
    fields["branches"] = "[]"
    return safetensors.numpy.save(tensors, fields if header else None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc", "damaged safetensors"),
        (b"\xff" * 64, "damaged safetensors"),
        (b"\x02" + bytes(7) + b"[]", "damaged safetensors"),
        (own()[:-1], "damaged safetensors"),
        (own() + b"x", "damaged safetensors"),
        (own(format="other"), "format 'other'"),
        (own(version="3"), "version '3', wanted l2c_rt.router 1 or 2"),
        (own(steps="ten"), "steps"),
        (own(steps="9" * 5_000), "steps"),
        (own(steps="12"), "12 steps has 12 rows"),
        (own(steps=None), "steps"),
        (own(branches="[1]"), "branch"),
        (own(branches="{"), "own.safetensors"),
        (own(branches="[" * 100_000), "nested too deeply"),
        (own(family=None), "family is ''"),
        (own(training="nan"), "training is not a JSON"),
        (own(timesteps="[1"), "own.safetensors"),
        (own(timesteps="[1]"), "1 timesteps for 10 steps"),
        (own(timesteps="{}"), r"timesteps is \{\}, wanted 10 numbers"),
        (own(granularity="layer"), "granularity: got 'layer'"),
        (
            other_tensors({"logits": LOGITS}, header=False),
            "format None version None",
        ),
        (other_tensors({"other": LOGITS}), "wanted one named logits"),
        (other_tensors({"logits": LOGITS, "more": LOGITS}), "holds 2 tensors"),
        (other_tensors({"logits": LOGITS.astype(np.float64)}), "logits are F64"),
        (other_tensors({"logits": LOGITS[0]}), r"\(8,\)"),
    ],
)
def test_a_damaged_file_of_ours_is_rejected_with_the_file_named(tmp_path, content, message):
    path = saved(tmp_path, content, "own.safetensors")
    with pytest.raises(ValueError, match=message) as caught:
        Router.load(path)
    assert str(path) in str(caught.value)
