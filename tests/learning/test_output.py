"""What a learning run leaves behind."""

from __future__ import annotations

import csv
import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest
import torch
from toy_learning import learn_briefly
from toys import toy_dit

from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.notices import L2CWarning
from l2c_rt.policies.router import Router


def test_the_folder_tells_how_it_went(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    router = learn_briefly(toy_dit(), out=tmp_path / "new" / "run", iterations=5, report=3)
    folder = tmp_path / "new" / "run"
    assert Router.load(folder / "router.safetensors").training == router.training
    with (folder / "log.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["iteration"]) for line in lines] == [1, 2, 3, 4, 5]
    for line in lines:
        loss, error, penalty = (float(line[name]) for name in ("loss", "error", "penalty"))
        assert loss == pytest.approx(error + penalty, rel=1e-4)
        assert 0 <= float(line["reused_share"]) <= 1
    seconds = [float(line["seconds"]) for line in lines]
    assert seconds == sorted(seconds)
    for picture in ("router.png", "fit.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    fit = json.loads((folder / "fit.json").read_text())
    assert (fit["images"], fit["fits"][0]["name"]) == (3, "this schedule")
    assert fit["computed"] == router.schedule().compute.sum()


class HidesMatplotlib(MetaPathFinder):
    """What an environment without matplotlib answers to `import matplotlib`."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def test_without_matplotlib_it_trains_to_the_end_and_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [HidesMatplotlib(), *sys.meta_path])
    with pytest.warns(L2CWarning, match=r"not drawn.*pip install l2c_rt\[plot\]") as warned:
        router = learn_briefly(toy_dit(), out=tmp_path, iterations=5, report=2)
    assert len(warned) == 1
    assert warned[0].filename.endswith("toy_learning.py")
    saved = Router.load(tmp_path / "router.safetensors")
    assert (saved.logits == router.logits).all()
    assert json.loads(router.training)["options"]["iterations"] == 5
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"router.safetensors", "fit.json", "log.csv", "checkpoint.safetensors"}


def test_no_fit_report_is_made_where_none_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    learn_briefly(toy_dit(depth=1), out=tmp_path, report=0)
    assert not list(tmp_path.glob("fit.*"))


@pytest.mark.parametrize("report", [-1, True, 2.0])
def test_images_of_the_report_are_counted_from_nought(tmp_path: Path, report: object) -> None:
    with pytest.raises(ValueError, match="learn: report is .*, wanted an int of at least 0"):
        learn_briefly(toy_dit(), out=tmp_path / "run", report=report)
    assert not (tmp_path / "run").exists()


def test_the_router_says_how_it_was_learned() -> None:
    model = toy_dit()
    router = learn_briefly(model, seed=3)
    about = json.loads(router.training)
    assert router.source == "l2c_rt.learn, seed 3"
    assert about["options"]["seed"] == 3
    assert about["options"]["iterations"] == 4
    assert about["versions"]["torch"] == torch.__version__
    assert about["model"] == "DiT"
    assert router.fingerprint == model_fingerprint(model)
    assert about["loss_at_end"] >= about["error_at_end"] >= 0
