"""Calibration files: written whole, read as untrusted, checked by a digest."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from l2c_rt.methods import BlockCaching, MagCache, SmoothCache
from l2c_rt.schedule.calibration import Calibration

PRINT = " ".join(f"{name}:{'0' * 64}" for name in ("shapes", "bfloat16", "float16"))


def made(**changes):
    arguments = {
        "errors": np.linspace(0, 1, 18).reshape(2, 3, 3),
        "branches": ("attn-0", "mlp-0"),
        "magnitudes": np.ones((1, 4)),
        "prior": np.zeros((4, 2, 3, 5), np.float32),
        "corrects": np.ones((4, 2), bool),
        "sampler": "ddim",
        "source": "test",
        "fingerprint": PRINT,
        "timesteps": (3.0, 2.0, 1.0, 0.0),
    }
    return Calibration(**{**arguments, **changes})


def test_a_file_holds_everything(tmp_path):
    path = tmp_path / "c.safetensors"
    made().save(path)
    again = Calibration.load(path)
    for name in Calibration.__slots__:
        a, b = getattr(made(), name), getattr(again, name)
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, name
    for kind in (SmoothCache, MagCache):
        assert kind(str(path)).calibration is not None
    assert BlockCaching(path).calibration is not None


def test_nan_past_the_end_is_kept(tmp_path):
    errors = np.full((2, 3, 3), np.nan)
    made(errors=errors).save(tmp_path / "c.safetensors")
    assert np.isnan(Calibration.load(tmp_path / "c.safetensors").errors).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"errors": np.zeros((2, 3))}, r"errors are \[2, 3\], wanted \[branches, lookback"),
        ({"errors": -np.ones((2, 3, 3))}, "not finite, or negative"),
        ({"branches": ("a",)}, "1 branch names for 2"),
        ({"magnitudes": np.ones((1, 3))}, r"magnitudes is \[1, 3\], wanted it for 4 steps"),
        ({"prior": np.zeros((3, 2, 3, 5))}, "prior is"),
        ({"prior": np.full((4, 2, 3, 5), np.inf)}, "not finite"),
        ({"corrects": np.ones((4, 3), bool)}, "corrects is"),
        ({"timesteps": (1.0,)}, "1 timesteps for 4 steps"),
        ({"fingerprint": "x"}, "fingerprint is 'x'"),
        ({"source": "\x1b"}, "printable"),
        ({"granularity": "layer"}, "granularity: got 'layer'"),
    ],
)
def test_fields_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        made(**change)


def test_a_changed_table_does_not_match_the_digest(tmp_path):
    path = tmp_path / "c.safetensors"
    made().save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.safetensors: .*the file was damaged"):
        Calibration.load(path)


@pytest.mark.parametrize(
    ("tables", "header", "message"),
    [
        ({"errors": np.zeros((2, 3, 3))}, {}, "format None version None"),
        ({"errors": np.zeros(1)}, {"format": "l2c_rt.calibration", "version": "1"}, "holds"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, tables, header, message):
    path = tmp_path / "c.safetensors"
    path.write_bytes(safetensors.numpy.save(tables, metadata=header))
    with pytest.raises(ValueError, match=rf"c\.safetensors: .*{message}"):
        Calibration.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"c\.safetensors: 0 bytes"):
        Calibration.load(path)


def test_a_calibration_is_saved_as_safetensors(tmp_path):
    with pytest.raises(ValueError, match="saved as .safetensors"):
        made().save(tmp_path / "c.json")
    with pytest.raises(ValueError, match="no ratios of norms; calibrate blocks"):
        MagCache(made(magnitudes=np.zeros((0, 0))))
