"""What can be checked without torch is checked before torch is imported, in every command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from l2c_rt.cli import main

SAMPLE = "sample dit.safetensors --router schedule.json"
LEARN = "learn dit.safetensors --steps 4"
COMPARE = "compare router.safetensors --weights dit.safetensors"
CASES = (
    # numbers and words
    ("inspect router.safetensors --reuse 2", 2, "--reuse"),
    ("convert router.safetensors x.json --threshold x", 2, "--threshold"),
    (f"{SAMPLE} -o x.npy --labels 3-1", 2, "--labels"),
    (f"{SAMPLE} -o x.npy --steps 5", 2, "--steps"),
    (f"{SAMPLE} -o x.npy --device gpu", 2, "--device"),
    (f"{SAMPLE} -o x.npy --backend x", 2, "--backend"),
    (f"{SAMPLE} -o x.npy --vae dit", 2, "--vae"),
    (f"{SAMPLE} -o x.npy --vae .", 2, "no --out is a .png"),
    ("sample dit.safetensors -o x.npy", 2, "--router"),
    ("sample digits --steps 21 -o x.png", 2, "--steps"),
    (f"{LEARN} --out x --device gpu", 2, "--device"),
    (f"{LEARN} --out x --data no-null.safetensors --cfg-scale 2", 2, "--cfg-scale"),
    ("calibrate dit.safetensors --steps 4 -o x.json", 2, "--out"),
    ("calibrate absent.pt --steps 4 -o x.safetensors", 3, "absent.pt"),
    ("fit dit.safetensors router.safetensors -o x.json", 2, "--out"),
    ("fit absent.pt router.safetensors -o x.safetensors", 3, "absent.pt"),
    ("search dit.safetensors --steps 4 --reuse 0.4 -o x.pt", 2, "--out"),
    ("search absent.pt --steps 4 --reuse 0.4 -o x.json", 3, "absent.pt"),
    ("bench schedule.json --width 6", 2, "--width"),
    ("bench schedule.json --device gpu", 2, "--device"),
    ("bench schedule.json --weights dit.safetensors --width 8", 2, "--width"),
    ("bench schedule.json --reuse 0.5", 2, "--reuse"),
    (f"{COMPARE} --reuse 0.5,1.5", 2, "--reuse"),
    (f"{COMPARE} --device gpu", 2, "--device"),
    ("compare router.safetensors", 2, "--weights"),
    ("demo --seed -1", 2, "--seed"),
    ("doctor --out .", 2, "--out"),
    ("tune", 2, "--install"),
    ("demo train --steps 0", 2, "--steps"),
    # files that are absent, or are something else
    ("inspect absent.pt", 3, "absent.pt"),
    ("inspect schedule.json --weights absent.pt", 3, "absent.pt"),
    ("inspect schedule.json --weights text.json", 3, "text.json"),
    ("convert absent.pt x.json", 3, "absent.pt"),
    ("sample absent.pt --router schedule.json -o x.npy", 3, "absent.pt"),
    ("sample dit.safetensors --router absent.json -o x.npy", 3, "absent.json"),
    ("sample . --router schedule.json -o x.npy", 3, "config.json"),
    (f"{SAMPLE} -o x.png --vae .", 3, "config.json"),
    ("learn absent.pt --steps 4 --out x", 3, "absent.pt"),
    (f"{LEARN} --out x --data absent.safetensors", 3, "absent.safetensors"),
    (f"{LEARN} --out x --data .", 3, "not a regular file"),
    ("bench schedule.json --weights absent.pt", 3, "absent.pt"),
    ("bench schedule.json --ceilings absent.json", 2, "--ceilings"),
    ("compare absent.pt --weights dit.safetensors", 3, "absent.pt"),
    ("compare router.safetensors --weights absent.pt", 3, "absent.pt"),
    # routers whose header is wrong
    ("inspect dit.safetensors", 3, "wanted l2c_rt.router"),
    ("convert dit.safetensors x.json", 3, "wanted l2c_rt.router"),
    ("sample dit.safetensors --router dit.safetensors -o x.npy", 3, "wanted l2c_rt.router"),
    ("bench dit.safetensors", 3, "wanted l2c_rt.router"),
    ("compare dit.safetensors --weights dit.safetensors", 3, "wanted l2c_rt.router"),
    # places that cannot be written
    ("inspect schedule.json --plot /proc/x.png", 2, "--plot"),
    ("convert router.safetensors /proc/x.json", 2, "OUT"),
    (f"{SAMPLE} -o /proc/x.npy", 2, "--out"),
    (f"{SAMPLE} -o text.json/x.npy", 2, "--out"),
    (f"{SAMPLE} -o .", 2, "--out"),
    (f"{LEARN} --out /proc/x", 2, "--out"),
    (f"{LEARN} --out text.json/x", 2, "--out"),
    (f"{COMPARE} -o /proc/x.png", 2, "--out"),
    (f"{COMPARE} -o x.jpg", 2, "--out"),
    ("demo --out /proc/x", 2, "--out"),
    ("demo train --out text.json/x", 2, "--out"),
)

RUNS = """
import json, sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "diffusers"):
            # Not an ImportError, which someone could take for an absent package.
            raise SystemError(f"{name} was imported")

sys.meta_path.insert(0, Forbidden())
from importlib import machinery, util
# Whether a package is installed may be asked.
util.find_spec = lambda name: machinery.PathFinder.find_spec(name)
from click.testing import CliRunner
from l2c_rt.cli import main

results = [CliRunner().invoke(main, words.split()) for words in json.load(sys.stdin)]
print(json.dumps([[result.exit_code, result.stderr] for result in results]))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """{words: (exit code, stderr)}, filled by the first test: one process for all of them."""
    return {}


@pytest.mark.parametrize(("words", "code", "reason"), CASES)
def test_it_is_refused_before_torch_is_imported(
    words: str, code: int, reason: str, folder: Path, told: dict[str, Any]
) -> None:
    if not told:
        every = [words for words, _, _ in CASES]
        process = subprocess.run(
            [sys.executable, "-c", RUNS], input=json.dumps(every), capture_output=True, text=True,
            timeout=120, check=True,
        )  # fmt: skip
        told.update(zip(every, json.loads(process.stdout), strict=True))
    got, stderr = told[words]
    assert got == code, stderr
    assert stderr.startswith("Error: ")
    assert stderr.count("\n") == 1
    assert reason in stderr


def test_every_command_is_among_the_cases() -> None:
    assert {words.split()[0] for words, _, _ in CASES} == set(main.commands)
