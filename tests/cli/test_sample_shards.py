"""`l2c-rt sample --count`: every seed once, whatever is killed, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import done, run
from safetensors.numpy import load_file
from toys import toy_dit

import l2c_rt as rt

COUNT, SIZE, BATCH = 42, 4, 3
SERVER = """
import json, os, sys
import torch
torch.set_num_threads(1)
import l2c_rt.api, l2c_rt.models, l2c_rt.serving.shard_folder
from l2c_rt.cli import main

for line in sys.stdin:
    words, rank = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.environ.update(RANK=str(rank), WORLD_SIZE="2")
        os.dup2(2, 1)
        main(words)
    print(pid, flush=True)
"""
"""Forks a process for every command, which has torch from the start."""


def words(weights: Path, schedule: Path, out: Path) -> list[str]:
    return [
        "sample", str(weights), "--router", str(schedule), "--backend", "reference", "--seed", "5",
        "--labels", "0-2", "--count", str(COUNT), "--shard-size", str(SIZE), "--batch", str(BATCH),
        "-o", str(out),
    ]  # fmt: skip


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_every_seed_is_there_once_with_the_latents_of_its_batch(
    dit_weights: Path, schedule: Path, tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    told = done(*words(dit_weights, schedule, out))
    assert "11 of 11 shards, 11 made now" in told
    files = [load_file(path) for path in sorted(out.glob("*.safetensors"))]
    assert np.concatenate([file["seeds"] for file in files]).tolist() == list(range(5, 5 + COUNT))
    labels = np.concatenate([file["labels"] for file in files]).tolist()
    assert labels == [i % 3 for i in range(COUNT)]
    fast = rt.compile(toy_dit(), schedule, backend="reference")
    noise = [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5 + i))
             for i in range(4, 7)]  # fmt: skip
    latents = fast.sample(torch.cat(noise), [1, 2, 0]).numpy()
    assert np.array_equal(files[1]["latents"][:BATCH], latents)


def test_a_second_call_makes_what_is_missing_and_other_options_are_refused(
    dit_weights: Path, schedule: Path, tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    command = words(dit_weights, schedule, out)
    done(*command)
    before = shards(out)
    for name in list(before)[2:4]:
        (out / name).unlink()
    assert "11 of 11 shards, 2 made now" in done(*command)
    assert shards(out) == before
    refused = run(*command, "--cfg-scale", "2")
    assert refused.exit_code == 2
    assert "have --cfg-scale None, now 2.0; give another folder" in refused.stderr
    assert shards(out) == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--count", "3", "--force"), "delete it to begin anew"),
        (("--count", "3", "-o", "y"), "one folder"),
        (("--batch", "3"), "give --count as well"),
        (("--count", "3", "--seed", str(2**63 - 2)), "seeds from"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: tuple[str, ...], reason: str, dit_weights: Path, schedule: Path, tmp_path: Path
) -> None:
    result = run("sample", dit_weights, "--router", schedule, "-o", tmp_path / "x", *options)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert not (tmp_path / "x").exists()


@contextmanager
def forking() -> Iterator[subprocess.Popen[str]]:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with server:
        yield server
        assert server.stdin is not None
        server.stdin.close()


def start(server: subprocess.Popen[str], command: list[str], rank: int) -> int:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps([command, rank]) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


@pytest.mark.slow
def test_processes_killed_at_ten_random_points_leave_what_others_make_the_exact_set_of(
    dit_weights: Path, schedule: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    done(*words(dit_weights, schedule, whole))
    out, draw = tmp_path / "killed", random.Random(0)
    command = words(dit_weights, schedule, out)
    with forking() as server:
        for i in range(10):
            there = len(list(out.glob("*.safetensors")))
            pids = [start(server, command, rank) for rank in range(1 + i % 2)]
            begun = time.monotonic()
            # From the first file of this process on, or from its manifest, or before.
            while i % 3 and len(list(out.glob("*.safetensors"))) <= there - (i % 3 == 2):
                assert time.monotonic() < begun + 60
                time.sleep(0.001)
            time.sleep(draw.uniform(0.0, 0.05))
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            if i >= 5:  # So that there is something left to be killed at.
                for path in sorted(out.glob("*.safetensors"))[:: 2 + i % 3]:
                    path.unlink()
    done(*command)
    assert shards(out) == shards(whole)
