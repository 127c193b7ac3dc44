from __future__ import annotations

import argparse
import copy
import io
import json
import os
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_files import archive, dit_pickle, drawn_logits, integer, text, uvit_pickle
from strategies import routers

from l2c_rt import presets
from l2c_rt.families import FAMILIES
from l2c_rt.policies.router import Router

PUBLISHED = Path(__file__).parents[2] / "../shared/routers"
published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason=f"the four published router files are not at {PUBLISHED}"
)
LOGITS = drawn_logits()


def saved(tmp_path: Path, content: bytes, name: str = "router.pt") -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def counts(schedule, rows: list[int]) -> list[int]:
    return schedule.compute[rows].sum(axis=1).tolist()


# Computed branches per cached evaluation, in execution order.
PUBLISHED_COUNTS = {
    "DDIM20_router.pt": [0, 0, 4, 8, 26, 53, 55, 55, 55, 56],
    "DDIM50_router.pt": [
        *(0, 1, 0, 0, 3, 1, 2, 6, 7, 8, 11, 26, 29, 36, 54, 54),
        *(55, 55, 55, 55, 56, 55, 55, 56, 56),
    ],
    "dpm20_router.pth": [0, 2, 6, 6, 8, 16, 49, 52, 50],
    "dpm50_router.pth": [0] * 9 + [1, 1, 2, 2, 4, 4, 4, 3, 2, 2, 6, 8, 11, 15, 23],
}
PUBLISHED_KINDS = {
    "DDIM20_router.pt": (157, 155),
    "DDIM50_router.pt": (371, 365),
    "dpm20_router.pth": (103, 86),
    "dpm50_router.pth": (47, 41),
}
PRESETS = {
    "DDIM20_router.pt": "l2c/dit-xl-2-256/ddim-20",
    "DDIM50_router.pt": "l2c/dit-xl-2-256/ddim-50",
    "dpm20_router.pth": "l2c/uvit-h-2-256/dpm-20",
    "dpm50_router.pth": "l2c/uvit-h-2-256/dpm-50",
}
DISTINCT = {
    "DDIM20_router.pt": 7,
    "DDIM50_router.pt": 14,
    "dpm20_router.pth": 10,
    "dpm50_router.pth": 15,
}


@published
@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_a_published_router_gives_the_published_counts(name):
    router = Router.load(PUBLISHED / name)
    schedule = router.schedule()
    cached = list(router.valid_rows())
    assert counts(schedule, cached) == PUBLISHED_COUNTS[name]
    assert schedule.compute[np.setdiff1d(np.arange(router.steps), cached)].all()
    by_kind = schedule.compute[cached].reshape(len(cached), -1, 2).sum(axis=(0, 1))
    assert tuple(by_kind) == PUBLISHED_KINDS[name]
    assert len(schedule.distinct_rows()) == DISTINCT[name]
    assert schedule == presets.load(PRESETS[name])
    assert schedule.source == name


@published
def test_published_totals():
    totals = {
        name: (sum(per_row), Router.load(PUBLISHED / name).schedule().compute.shape)
        for name, per_row in PUBLISHED_COUNTS.items()
    }
    assert totals == {
        "DDIM20_router.pt": (312, (20, 56)),
        "DDIM50_router.pt": (736, (50, 56)),
        "dpm20_router.pth": (189, (20, 58)),
        "dpm50_router.pth": (88, (50, 58)),
    }


@published
@pytest.mark.parametrize(
    ("threshold", "percent"),
    [(0.05, 43.75), (0.3, 46.43), (0.5, 47.86), (0.7, 50.36), (0.9, 55.18)],
)
def test_other_thresholds_reuse_the_published_shares(threshold, percent):
    schedule = Router.load(PUBLISHED / "DDIM20_router.pt").schedule(threshold)
    assert 100 * (~schedule.compute).sum() / 560 == pytest.approx(percent, abs=0.005)
    assert schedule.threshold == threshold


@published
@pytest.mark.parametrize("nfe", [20, 50])
def test_uvit_caches_the_third_fifth_seventh_evaluation_and_so_on(nfe):
    router = Router.load(PUBLISHED / f"dpm{nfe}_router.pth")
    assert [n + 1 for n in router.valid_rows()] == list(range(3, nfe, 2))
    full = router.schedule(threshold=1.0).compute.all(axis=1)
    assert [n + 1 for n in np.flatnonzero(~full)] == list(range(3, nfe, 2))


@published
@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_the_reader_agrees_with_torch(name):
    torch = pytest.importorskip("torch")
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(PUBLISHED / name, weights_only=True, map_location="cpu")
    table = content.get("routers", content)
    logits = np.stack([table[f"{row}.prob"].numpy() for row in range(len(table))])
    np.testing.assert_array_equal(Router.load(PUBLISHED / name).logits, logits)


@published
def test_the_header_of_a_published_dit_router_is_kept():
    router = Router.load(PUBLISHED / "DDIM50_router.pt", steps=50, depth=28, family="dit")
    training = json.loads(router.training)
    assert (training["l1"], training["lr"], training["model"]) == (1e-6, 1e-3, "DiT-XL/2")


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
    assert (schedule.lanes, schedule.threshold) == (published.calls_per_step, published.threshold)


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
    content = archive(uvit_pickle(LOGITS), LOGITS.byteswap())
    content = content.replace(b"little", b"big   ")
    with pytest.raises(ValueError, match="checksum"):
        Router.load(saved(tmp_path, content, "router.pth"))
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


def test_rows_of_dit_count_from_the_clean_end():
    assert Router(np.zeros((4, 2)), "dit", 4).valid_rows() == {1: 2, 3: 0}
    assert Router(np.zeros((5, 2)), "dit", 5).valid_rows() == {2: 2, 4: 0}


def test_rows_of_uvit_count_solver_steps_from_the_noisy_end():
    assert Router(np.zeros((8, 2)), "uvit", 8).valid_rows() == {2: 1, 4: 2, 6: 3}
    assert Router(np.zeros((4, 2)), "uvit", 8).valid_rows() == {2: 1, 4: 2, 6: 3}


def test_a_score_above_the_threshold_computes():
    logits = np.full((4, 2), 7.0, np.float32)
    logits[2] = [0.0, 1e-4]
    schedule = Router(logits, "dit", 4).schedule(threshold=0.5)
    assert schedule.row(1) == (False, True)
    assert schedule.row(3) == (True, True)


@given(router=routers())
def test_unused_rows_change_nothing(router):
    logits = np.array(router.logits)
    logits[sorted(set(range(len(logits))) - set(router.valid_rows().values()))] = 5.0
    other = Router(logits, router.family, router.steps)
    assert other.schedule() == router.schedule()
    assert other.schedule(reuse=0.5) == router.schedule(reuse=0.5)


@given(router=routers(), reuse=st.floats(0, 1))
def test_a_reuse_share_is_met_exactly_and_takes_the_lowest_scores(router, reuse):
    schedule = router.schedule(reuse=reuse)
    rows = router.valid_rows()
    cells = len(rows) * len(router.branches)
    reused = ~schedule.compute[list(rows)]
    assert reused.sum() == (~schedule.compute).sum() == round(reuse * cells)
    used = router.logits[list(rows.values())]
    if reused.any() and not reused.all():
        assert used[reused].max() <= used[~reused].min()
    if schedule.threshold is not None:
        assert router.schedule(schedule.threshold) == schedule


def test_ties_go_by_evaluation_and_then_by_branch():
    schedule = Router(np.zeros((6, 2)), "dit", 6).schedule(reuse=0.5)
    assert [schedule.row(n) for n in (1, 3, 5)] == [(False,) * 2, (False, True), (True, True)]
    assert schedule.threshold is None
    logits = np.random.default_rng(0).integers(0, 3, (40, 40)).astype(np.float32)
    compute = Router(logits, "dit", 40).schedule(reuse=0.5).compute[1::2].ravel()
    values = logits[38::-2].ravel().tolist()
    lowest = sorted(range(800), key=lambda k: values[k])[:400]
    assert np.flatnonzero(~compute).tolist() == sorted(lowest)


@given(router=routers())
def test_a_schedule_carries_where_it_comes_from(router):
    schedule = router.schedule()
    assert (schedule.family, schedule.sampler) == (router.family, router.sampler)
    assert (schedule.lanes, schedule.source) == (FAMILIES[router.family].calls_per_step, "drawn")
    assert schedule.threshold == FAMILIES[router.family].threshold
    assert schedule.branches == router.branches


@given(router=routers())
def test_a_saved_router_loads_as_it_was(router, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "router.safetensors"
    router.save(path)
    loaded = Router.load(path)
    np.testing.assert_array_equal(loaded.logits, router.logits)
    for field in ("family", "steps", "branches", "sampler", "source", "training"):
        assert getattr(loaded, field) == getattr(router, field)


def test_own_names_and_training_survive_the_file(tmp_path):
    training = json.dumps({"lr": 0.1, "log": ["a", None]})
    router = Router(np.zeros((2, 3)), "dit", 2, ("q", 'k"', "v"), "my-loop", "me", training)
    router.save(tmp_path / "r.safetensors")
    loaded = Router.load(tmp_path / "r.safetensors", branches=("q", 'k"', "v"))
    assert (loaded.sampler, loaded.source, loaded.training) == ("my-loop", "me", training)


def test_a_router_is_saved_as_safetensors_only(tmp_path):
    with pytest.raises(ValueError, match=r"saved as \.safetensors, not '\.pt'"):
        Router(np.zeros((2, 2)), "dit", 2).save(tmp_path / "router.pt")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"family": "sdxl"}, "family is 'sdxl', wanted one of"),
        ({"steps": 12}, "a DiT router for 12 steps has 12 rows, not 10"),
        ({"steps": 0}, "0 steps"),
        ({"steps": 10.0}, r"steps is 10\.0, wanted an int"),
        (
            {"family": "uvit", "steps": 9},
            "whole solver steps of 2 evaluations, not for 9",
        ),
        ({"family": "uvit", "steps": 8}, r"8 steps has 4\.\.8 rows, not 10"),
        ({"family": "uvit", "steps": 22}, r"22 steps has 11\.\.22 rows, not 10"),
        ({"logits": np.zeros((10, 8), int)}, "logits are int64"),
        ({"logits": np.zeros(10)}, r"float64 \(10,\)"),
        ({"branches": ("a",)}, "1 branch names for 8"),
        ({"source": "\x1b"}, "source is"),
        ({"training": "{"}, "training is no JSON"),
    ],
)
def test_a_bad_router_is_rejected_by_name(fields, message):
    good = {"logits": LOGITS, "family": "dit", "steps": 10}
    with pytest.raises(ValueError, match=message):
        Router(**{**good, **fields})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_used_score_must_be_finite(value):
    logits = LOGITS.copy()
    logits[2, 3] = value
    with pytest.raises(ValueError, match=r"row 2 \(evaluation 7\), mlp-1: the score is"):
        Router(logits, "dit", 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.5, "reuse": 0.5}, "not both"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"reuse": -0.1}, "reuse is -0.1"),
        ({"reuse": float("nan")}, "reuse is nan"),
    ],
)
def test_a_bad_cut_is_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        Router(LOGITS, "dit", 10).schedule(**options)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"steps": 20}, "steps: 10, wanted 20"),
        ({"depth": 28}, "branches per row: 8, wanted 56; a router fits the model"),
        ({"branches": ("a",) * 8}, "branches: "),
        ({"family": "uvit", "steps": 20}, "steps: 10, wanted 20"),
        ({"family": "sdxl"}, "family is 'sdxl'"),
    ],
)
def test_a_router_for_another_run_is_rejected_with_the_file_named(tmp_path, wanted, message):
    path = saved(tmp_path, archive(dit_pickle(LOGITS), LOGITS))
    with pytest.raises(ValueError, match=message) as caught:
        Router.load(path, **wanted)
    assert str(path) in str(caught.value)


GOOD = archive(dit_pickle(LOGITS), LOGITS)
COMPRESSED = archive(dit_pickle(LOGITS), LOGITS, zipfile.ZIP_DEFLATED)


def with_nan(row: int) -> bytes:
    logits = LOGITS.copy()
    logits[row, 0] = np.nan
    return archive(dit_pickle(logits), logits)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes.*it is empty"),
        (b"hello", "not a zip archive"),
        (GOOD[: len(GOOD) // 2], "truncated"),
        (GOOD[:-1], "truncated"),
        (GOOD[10:], "not a zip archive"),
        (COMPRESSED, "is compressed or encrypted"),
        (archive(b"\x80\x02N.", LOGITS), "holds a NoneType"),
        (archive(b"\x80\x02}.", LOGITS), r"dict of 1\.\.10000 rows"),
        (archive(b"\x80\x02", LOGITS), "ends at byte 2"),
        (archive(b"\x80\x04N.", LOGITS), "protocol 4, wanted 2"),
        (archive(dit_pickle(LOGITS, steps=20), LOGITS), "say 20 sampling steps, but it has 10"),
        (archive(dit_pickle(LOGITS), LOGITS[:9]), "storage '9' claims 8.*holds 0 bytes"),
        (archive(dit_pickle(LOGITS), LOGITS[:, :7]), "storage '0' claims 8.*holds 28 bytes"),
        (archive(dit_pickle(LOGITS, kind="Long"), LOGITS), "of LongStorage, wanted"),
        (with_nan(4), r"row 4 \(evaluation 5\), attn-0: the score is nan"),
        (archive(b"\x80\x02}" + text("a.prob") + b"K\x01s.", LOGITS), "rows are not named"),
        (archive(b"\x80\x02}" + text("0.prob") + b"K\x01s.", LOGITS), "0.prob is no tensor"),
        (archive(b"\x80\x02}]K\x01s.", LOGITS), "list as a key"),
        (archive(dit_pickle(LOGITS, offset=text("0")), LOGITS), "without storage, offset"),
        (archive(dit_pickle(LOGITS, offset=b"J\xff\xff\xff\xff"), LOGITS), "without storage"),
        (archive(dit_pickle(LOGITS, offset=b"K\x01"), LOGITS), r"takes 1\.\.9 of them"),
    ],
)
def test_a_damaged_file_is_rejected_with_the_file_named(tmp_path, content, message):
    path = saved(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        Router.load(path)
    assert str(path) in str(caught.value)


def test_a_record_that_ends_beyond_the_file_is_rejected(tmp_path):
    content = bytearray(GOOD)
    entry = content.rfind(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = (1_000).to_bytes(4, "little") * 2
    with pytest.raises(ValueError, match=r"'router/version' claims 1000 bytes, beyond the end"):
        Router.load(saved(tmp_path, bytes(content)))


def test_a_row_that_is_not_used_may_hold_anything(tmp_path):
    assert Router.load(saved(tmp_path, with_nan(5))).schedule().steps == 10


def test_an_unknown_suffix_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"ends in one of \.pt, \.pth, \.safetensors"):
        Router.load(saved(tmp_path, GOOD, "router.bin"))


def hostile_pickles(canary: Path) -> dict[str, bytes]:
    command = text(f"touch {canary}")
    code = text(f"open({str(canary)!r}, 'w')")
    return {
        "system": b"\x80\x02cposix\nsystem\n" + command + b"\x85R.",
        "eval": b"\x80\x02cbuiltins\neval\n" + code + b"\x85R.",
        "eval of python 2": b"\x80\x02c__builtin__\neval\n" + code + b"\x85R.",
        "object": b"\x80\x02cos\nsystem\n" + command + b"\x85\x81.",
        "old instance": b"(" + command + b"ios\nsystem\n.",
        "old object": b"\x80\x02(cos\nsystem\n" + command + b"o.",
        "stack global": b"\x80\x02" + text("os") + text("system") + b"\x93" + command + b"\x85R.",
        "state": b"\x80\x02cargparse\nNamespace\n)\x81" + command + b"b.",
        "call with arguments": b"\x80\x02cargparse\nNamespace\n" + command + b"\x85R.",
        "storage of another module": b"\x80\x02cos\nsystemStorage\n" + command + b"\x85R.",
        "dotted storage": b"\x80\x02ctorch\nos.systemStorage\n" + command + b"\x85R.",
        "extension": b"\x80\x02\x82\x01.",
    }


@pytest.mark.parametrize("name", hostile_pickles(Path()))
def test_a_hostile_pickle_is_refused_and_nothing_is_executed(tmp_path, name):
    pickle = hostile_pickles(tmp_path / "canary")[name]
    named = any(
        f"c{module}\n".encode() in pickle for module in ("posix", "builtins", "os", "torch")
    )
    message = "which no router needs; refused, and nothing was executed" if named else "pickle"
    with pytest.raises(ValueError, match=message):
        Router.load(saved(tmp_path, archive(pickle, LOGITS)))
    assert not (tmp_path / "canary").exists()


def test_the_hostile_pickle_would_have_been_executed(tmp_path):
    import pickle

    pickle.loads(hostile_pickles(tmp_path / "canary")["system"])
    assert (tmp_path / "canary").exists()


def bombs() -> dict[str, bytes]:
    tera = 1 << 40
    doubled = b"\x80\x02]" + b"q\x00(h\x00h\x00t" * 100 + b"."
    nested = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    return {
        "terabyte storage": archive(uvit_pickle(LOGITS, numel=tera), LOGITS),
        "terabyte bytearray": archive(
            b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + b"\x7f" * 6, LOGITS
        ),
        "terabyte text": archive(b"\x80\x02X\xff\xff\xff\xff", LOGITS),
        "doubled tuples": archive(doubled, LOGITS),
        "deep nesting": archive(nested, LOGITS),
        "large memo index": archive(b"\x80\x02Nr\xff\xff\xff\xff.", LOGITS),
        "compressed zeros": archive(bytes(1 << 26), LOGITS, zipfile.ZIP_DEFLATED),
        "many records": GOOD[:-14] + b"\xff\xff\xff\xff" + GOOD[-10:],
    }


@pytest.mark.parametrize("name", bombs())
def test_a_file_that_claims_terabytes_takes_no_memory(tmp_path, name):
    path = saved(tmp_path, bombs()[name], "router.pth")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"router\.pth"):
            Router.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * path.stat().st_size + (1 << 20)


def slow_files() -> dict[str, bytes]:
    colliding = b"".join(integer((1 << 61) - 1 << k % 900) + b"N" for k in range(10_000))
    wide = b"(" + b"K\x01" * 1_000 + b"tq\x00"
    tensors = (b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00h\x00h\x00tR") * 1_000
    overlap = io.BytesIO()
    with zipfile.ZipFile(overlap, "w") as file:
        file.writestr("large", bytes(1 << 20))
        file.filelist += [copy.copy(file.filelist[0]) for _ in range(200)]
        for k, record in enumerate(file.filelist):
            record.filename = f"r{k:04}"
    return {
        "keys that collide": archive(b"\x80\x02}(" + colliding + b"u.", LOGITS),
        "tensors of many dimensions": archive(b"\x80\x02" + wide + tensors, LOGITS),
        "records that overlap": overlap.getvalue(),
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("keys that collide", "int as a key"),
        ("tensors of many dimensions", "1000 dimensions"),
        ("records that overlap", "overlaps others"),
    ],
)
def test_a_small_file_that_would_take_long_is_refused(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        Router.load(saved(tmp_path, slow_files()[name]))


def test_a_huge_file_is_rejected_before_it_is_read(tmp_path):
    path = tmp_path / "router.pt"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="1099511627776 bytes"):
        Router.load(path)


def own(**changes: str | None) -> bytes:
    """A .safetensors file whose header fields are changed, or dropped where None."""
    import safetensors.numpy

    header = {"format": "l2c_rt.router", "version": "1", "family": "dit", "steps": "10"}
    header |= {"branches": json.dumps([f"b{k}" for k in range(8)])}
    header |= {name: value for name, value in changes.items() if value is not None}
    kept = {name: value for name, value in header.items() if changes.get(name, "") is not None}
    return safetensors.numpy.save({"logits": LOGITS}, kept)


def other_tensors(tensors: dict[str, np.ndarray], header: bool = True) -> bytes:
    import safetensors.numpy

    fields = {"format": "l2c_rt.router", "version": "1", "family": "dit", "steps": "10"}
    fields["branches"] = "[]"
    return safetensors.numpy.save(tensors, fields if header else None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc", "header claims"),
        (b"\xff" * 64, "header claims 18446744073709551615 bytes"),
        (b"\x02" + bytes(7) + b"[]", "without our header"),
        (own()[:-1], "damaged safetensors"),
        (own() + b"x", "damaged safetensors"),
        (own(format="other"), "format 'other'"),
        (own(version="2"), "version '2', wanted l2c_rt.router 1"),
        (own(steps="ten"), "steps"),
        (own(steps="9" * 5_000), "steps"),
        (own(steps="12"), "12 steps has 12 rows"),
        (own(steps=None), "steps"),
        (own(branches="[1]"), "branch"),
        (own(branches="{"), "own.safetensors"),
        (own(branches="[" * 100_000), "nested too deeply"),
        (own(family=None), "family is ''"),
        (own(training="nan"), "training is no JSON"),
        (other_tensors({"logits": LOGITS}, header=False), "without our header"),
        (other_tensors({"other": LOGITS}), "wanted one named logits"),
        (other_tensors({"logits": LOGITS, "more": LOGITS}), "holds 2 tensors"),
        (other_tensors({"logits": LOGITS.astype(np.float64)}), "logits are float64"),
        (other_tensors({"logits": LOGITS[0]}), r"\(8,\)"),
    ],
)
def test_a_damaged_file_of_ours_is_rejected_with_the_file_named(tmp_path, content, message):
    path = saved(tmp_path, content, "own.safetensors")
    with pytest.raises(ValueError, match=message) as caught:
        Router.load(path)
    assert str(path) in str(caught.value)


def test_scores_are_sigmoids_without_warnings():
    logits = np.array([[-800.0, 0.0], [np.nan, np.inf]])
    scores = Router(logits, "dit", 2).scores
    np.testing.assert_array_equal(scores, [[0.0, 0.5], [np.nan, 1.0]])
