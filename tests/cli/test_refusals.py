"""What users get wrong: every command says so in one line of its own words, and writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import run

CASES = (
    ("inspect l2c/dit-xl-2-256/ddim-20 --reuse 0.5", 2, "needs the scores of a router"),
    ("inspect l2c/dit-xl-2-256/ddim-20 --threshold nan", 2, "nan is not a finite number"),
    ("inspect schedule.json --blocks 3", 2, "is for SmoothCache files"),
    ("inspect router.safetensors --reuse 1.5", 2, "not in the range"),
    ("inspect router.safetensors --reuse 0.5 --threshold 0.5", 2, "not both"),
    ("inspect l2c/dit-xl-2-256/ddim-20 --plot map.jpg", 2, "name it .png"),
    ("inspect schedule.json --weights dit.safetensors --width 8", 2, "says this"),
    ("inspect no-such.pt", 3, "no such file, and no preset; presets are l2c/"),
    ("inspect no-such.json", 3, "no such file"),
    ("inspect dit.safetensors", 3, "wanted l2c_rt.router"),
    ("inspect text.json", 3, "text.json"),
    ("inspect .", 3, "ends in one of"),
    ("inspect l2c/dit-xl-2-256/ddim-20 --depth 12", 4,
     "FILE|PRESET: 56 branches, but this model has 24"),
    ("inspect schedule.json --weights text.json", 3, "ends in one of"),
    ("inspect l2c/dit-xl-2-256/ddim-20 --depth 1000000000", 2, "not in the range"),
    ("inspect text.json --blocks 1000000000000", 2, "not in the range"),
    ("convert l2c/dit-xl-2-256/ddim-20 out.safetensors", 2, "needs scores, and IN is a preset"),
    ("convert router.safetensors out.txt", 2, "ends in none of"),
    ("convert router.safetensors out.json --to router", 2, "ends in .safetensors"),
    ("convert router.safetensors out.safetensors --reuse 0.5", 2, "keeps all scores"),
    ("convert router.safetensors text.json", 2, "exists; give --force"),
    ("convert router.safetensors nowhere/out.json", 2, "is not a folder"),
    ("sample dit.safetensors -o x.npy", 2, "needed for"),
    ("sample dit.safetensors --router full -o x.npy", 2, "--steps"),
    ("sample dit.safetensors --router schedule.json -o x.png", 2, "1 or 3 channels"),
    ("sample dit.safetensors --router schedule.json -o x.gif", 2, "ends in none of"),
    ("sample dit.safetensors --router schedule.json -o text.json", 2, "ends in none of"),
    ("sample dit.safetensors --router schedule.json --labels 4-11 -o x.npy", 2,
     "not within 0..9"),
    ("sample dit.safetensors --router schedule.json --device gpu -o x.npy", 2, "--device"),
    ("sample dit.safetensors --router l2c/dit-xl-2-256/ddim-20 -o x.npy", 4,
     "--router: 56 branches"),
    ("sample dit.safetensors --router schedule.json --steps 5 -o x.npy", 2,
     "'--steps': 5, and"),
    ("sample dit.safetensors --router schedule.json -o x.npy --vae no", 2, "--vae"),
    ("sample no-null.safetensors --router schedule.json -o x.npy", 2, "pass --cfg-scale 1"),
    ("sample no-heads.safetensors --router schedule.json -o x.npy", 2, "give --num-heads"),
    ("sample no-heads.safetensors --router schedule.json --num-heads 5 -o x.npy", 2,
     "width 32 is not a multiple of --num-heads 5"),
    ("sample uvit.pt --router schedule.json --num-heads 2 -o x.npy", 4,
     "holds a U-ViT, the schedule is for a DiT"),
    ("sample uvit.pt --router full --steps 5 --num-heads 2 -o x.npy", 2,
     "'--steps': DPM-Solver takes 2 evaluations"),
    ("sample router.safetensors --router schedule.json -o x.npy", 3, "the file has logits"),
    ("sample dit.safetensors --router schedule.json -o x.npy --key ema", 2,
     "no weights under --key ema; there are some under ''"),
    ("sample dit.safetensors --router schedule.json -o x.npy --seed 1180591620717411303424", 2,
     "not in the range"),
    ("sample dit.safetensors --router schedule.json -o x.npy --cfg-scale nan", 2,
     "nan is not a finite number"),
    ("sample . --router schedule.json -o x.npy", 3, "config.json: No"),
    ("learn dit.safetensors --steps 4 --out x --lam inf", 2, "not a finite"),
    ("learn dit.safetensors --steps 4 --out x --lr nan", 2, "not a finite"),
    ("learn dit.safetensors --steps 4 --out x --reuse nan", 2, "not a finite"),
    ("learn dit.safetensors --steps 4 --out x --seed 1180591620717411303424", 2,
     "in the range"),
    ("learn dit.safetensors --steps 4 --out x --data text.json", 3, "text.json"),
    ("learn dit.safetensors --steps 4 --out x --data .", 3, "not a regular file"),
    ("demo --seed 8589934592", 2, "not in the range"),
    ("bench schedule.json --weights dit.safetensors --width 32", 2, "random model"),
    ("learn uvit.pt --steps 5 --out x --num-heads 2", 2, "--steps 5"),
    ("bench l2c/uvit-h-2-256/dpm-20 --width 6", 2, "not a multiple of 4"),
    ("bench l2c/dit-xl-2-256/ddim-20 --backend fuse", 2, "--backend"),
    ("bench schedule.json --threads 10000000000000", 2, "not in the range"),
    ("bench schedule.json --batch 10000000000000", 2, "not in the range"),
    ("bench schedule.json --width 10000000000000", 2, "not in the range"),
    ("bench even.json", 4, "4 blocks, and a U-ViT an odd number"),
    ("compare router.safetensors", 2, "'--weights': needed for"),
    ("compare schedule.json --reuse 0.3 --weights dit.safetensors", 2, "needs the scores"),
    ("compare router.safetensors --reuse 0.3,x --weights dit.safetensors", 2, "--reuse"),
    ("compare router.safetensors --reuse 0.3,2 --weights dit.safetensors", 2,
     "not in the range"),
    ("compare router.safetensors --weights dit.safetensors --out x.jpg", 2, "name it .png"),
    ("compare router.safetensors --weights dit.safetensors --reuse 0.3 --compute 0.5", 2,
     "not both"),
    ("compare router.safetensors --weights dit.safetensors --method frob", 2, "frob is none of"),
    ("compare router.safetensors --weights dit.safetensors --method EveryN:x", 2, "no FIELD=VALUE"),
    ("compare router.safetensors --weights uvit.pt --num-heads 2", 4, "for a DiT"),
    ("compare l2c/dit-xl-2-256/ddim-20 --weights dit.safetensors", 4,
     "FILE|PRESET: 56 branches"),
    ("--frob", 2, "--frob"),
    ("frob", 2, "frob"),
)  # fmt: skip
"""The words of a command in the folder of test files, its code, and what its error says."""

PYTHON = re.compile(
    r"\b(?!l2c_rt)[a-z]+_[a-z_]+\b(?!\.)|\b[a-z]+=|^Error: (compile|sample|learn): "
)
"""Keywords and functions of Python, which a shell has not."""


@pytest.mark.parametrize(("words", "code", "reason"), CASES)
def test_a_refusal_has_its_code_and_one_line_that_says_why(
    words: str, code: int, reason: str, folder: Path
) -> None:
    before = sorted(folder.rglob("*"))
    result = run(*words.split())
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    *progress, told = result.stderr.strip().splitlines()
    assert told.startswith("Error: ")
    assert reason in told
    assert not PYTHON.search(told)
    assert all("|" in line for line in progress)
    assert sorted(folder.rglob("*")) == before


def test_a_name_that_the_system_does_not_take_is_refused_like_any_other(folder: Path) -> None:
    name = "x" * 300
    for words, code in (
        (f"inspect {name}.pt", 3),
        (f"inspect schedule.json --weights {name}.pt", 3),
        (f"inspect schedule.json --plot {name}.png", 2),
        (f"convert schedule.json {name}.json", 2),
        (f"sample dit.safetensors --router schedule.json -o {name}.npy", 2),
        (f"sample dit.safetensors --router schedule.json -o x.png --vae {name}", 3),
        (f"learn dit.safetensors --steps 4 --out {name}", 2),
        (f"demo --out {name}", 2),
    ):
        result = run(*words.split())
        assert result.exit_code == code, result.output
        assert result.stderr.count("\n") == 1
