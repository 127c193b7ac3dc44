"""Router learning: the published step, what a given share means, resuming, files, processes."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from soft_oracle import SoftOracle
from torch import Tensor
from toys import toy_dit, toy_uvit

from l2c_rt import adapters
from l2c_rt.learning import learn
from l2c_rt.learning.options import chosen, default_lr
from l2c_rt.learning.pairs import trajectory_pairs
from l2c_rt.learning.penalty import shifted_to_share
from l2c_rt.learning.state import Sums, gather, start, update
from l2c_rt.learning.task import Task
from l2c_rt.learning.workers import Workers
from l2c_rt.policies.router import Router
from l2c_rt.sampling import loops as sampling

pytest.importorskip("matplotlib", reason="the plot extra is not installed")

PATHS = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]


def short(model: Any, **options: Any) -> Router:
    return learn(model, **({"steps": 6, "iterations": 4, "progress": False} | options))


def task_of(model: Any, **options: Any) -> Task:
    bound_model = adapters.bind(model)
    given = {"steps": 6, "iterations": 10, "batch_size": 2, "lam": 0.01, "reuse": None, "lr": 0.1,
             "seed": 0, "straight_through": None, "cfg_scale": None, "data": False}  # fmt: skip
    return Task.of(bound_model, chosen(bound_model, **(given | options)))


def latents(batches: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([k, k + 1]))
        for k in range(batches)
    ]


@pytest.mark.parametrize("toy", [toy_dit, toy_uvit])
def test_a_step_is_adamw_on_the_published_loss(toy: Any) -> None:
    model = toy()
    task = task_of(model)
    options, family = task.options, task.bound_model.program.family
    state = start(task.rows.values(), 6, options)
    theta = state.logits.requires_grad_()
    optimizer = torch.optim.AdamW([theta], lr=0.1, weight_decay=0)
    total = torch.zeros(())
    with torch.no_grad():
        pairs = list(task.pairs(0, 0, None))
    naive = SoftOracle(model)
    for pair in pairs:
        weights = theta[state.rows.index(pair.row)].sigmoid()
        naive.kept = pair.kept
        student = pair.student(lambda x, t, y, w=weights: naive.mixed(x, t, y, w))
        squares = (student - pair.teacher).square()
        loss = squares.mean() if family == "dit" else squares.flatten(1).sum(1).mean()
        total = total + loss + 0.01 * weights.sum()
    total.backward()
    optimizer.step()
    sums = gather(task.bound_model, pairs, state, options)
    update(state, sums, options, family, Workers())
    torch.testing.assert_close(state.logits, theta.detach(), rtol=1e-4, atol=1e-5)
    assert state.error + state.penalty == pytest.approx(float(total.detach()) / len(pairs), rel=0.2)


def test_straight_through_mixes_with_zeros_and_ones_only() -> None:
    model = toy_dit()
    task = task_of(model, straight_through=0.6)
    state = start(task.rows.values(), 6, task.options)
    [pair, *_] = task.pairs(0, 0, None)
    row = state.logits[state.rows.index(pair.row)]
    naive = SoftOracle(model)
    naive.kept = pair.kept
    hard = (row.sigmoid() > 0.6).float().requires_grad_()
    assert 0 < hard.sum() < 6
    student = pair.student(lambda x, t, y: naive.mixed(x, t, y, hard))
    loss = (student - pair.teacher).square().mean()
    loss.backward()
    sums = gather(task.bound_model, [pair], state, task.options)
    assert float(sums.error) == pytest.approx(float(loss.detach()), rel=1e-4)
    slope = sums.slope[state.rows.index(pair.row)].float()
    torch.testing.assert_close(slope, hard.grad, rtol=1e-3, atol=1e-7)
    update(state, sums, task.options, "dit", Workers())
    moved = (state.logits[state.rows.index(pair.row)] - row).abs()
    assert bool((moved > 0).all())


def test_only_rows_that_were_met_move() -> None:
    task = task_of(toy_dit(), data=True, lam=0.01)
    state = start(task.rows.values(), 6, task.options)
    for row in (2, 0, 2):
        before = state.logits
        slope, pairs = torch.zeros(3, 6, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        slope[row], pairs[row] = 1.0, 1.0
        sums = Sums(slope, pairs, torch.zeros((), dtype=torch.float64))
        update(state, sums, task.options, "dit", Workers())
        # A zero slope would let AdamW's momentum move a row that was met before.
        moved = (state.logits != before).all(dim=1)
        assert moved.tolist() == [k == row for k in range(3)]


def test_dit_logits_are_clamped_and_uvit_logits_are_not() -> None:
    wide = {"lam": 100.0, "lr": 3.0, "iterations": 5}
    dit = short(toy_dit(depth=1), **wide)
    assert dit.logits.min() == -5.0
    uvit = short(toy_uvit(), **wide)
    assert uvit.logits.min() < -8.0


def test_rows_without_an_evaluation_hold_zeros_and_the_others_do_not() -> None:
    dit = short(toy_dit(), steps=7, lam=0.01)
    assert dit.logits.shape == (7, 6)
    assert np.flatnonzero(dit.logits.any(axis=1)).tolist() == [0, 2, 4]
    uvit = short(toy_uvit(), steps=8, lam=0.01)
    assert uvit.logits.shape == (4, 6)
    assert np.flatnonzero(uvit.logits.any(axis=1)).tolist() == [1, 2, 3]


def deaf_dit(blocks: tuple[int, ...]) -> Any:
    """A DiT some of whose blocks have closed gates: reusing them costs nothing."""
    model = toy_dit()
    with torch.no_grad():
        for b in blocks:
            linear = model.blocks[b].adaLN_modulation[1]
            for gate in (2, 5):
                linear.weight[32 * gate : 32 * (gate + 1)].zero_()
                linear.bias[32 * gate : 32 * (gate + 1)].zero_()
    return model


def test_branches_that_do_not_matter_are_given_up_first() -> None:
    router = short(deaf_dit((1,)), iterations=40, reuse=1 / 3)
    reused = ~router.schedule().compute
    assert reused[[1, 3, 5]].tolist() == 3 * [[False, False, True, True, False, False]]
    assert not reused[[0, 2, 4]].any()


def test_a_fixed_penalty_gives_up_what_does_not_matter_too() -> None:
    router = short(deaf_dit((0, 2)), iterations=60, lam=1e-6, lr=0.3)
    scores = router.scores[[0, 2, 4]]
    assert scores[:, [0, 1, 4, 5]].max() < 0.1
    assert scores[:, [2, 3]].max() > 0.5


@pytest.mark.parametrize("reuse", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("toy", [toy_dit, toy_uvit])
def test_the_default_schedule_reuses_just_the_wanted_share(toy: Any, reuse: float) -> None:
    router = short(toy(), reuse=reuse)
    rows = list(router.valid_rows())
    reused = ~router.schedule().compute
    assert reused[rows].sum() == round(reuse * reused[rows].size)
    assert router.schedule() == router.schedule(reuse=reuse)


def test_a_share_and_a_penalty_together_move_the_cut_only() -> None:
    plain, moved = (short(toy_dit(), lam=0.01, reuse=reuse) for reuse in (None, 0.5))
    rows = [0, 2, 4]
    shift = json.loads(moved.training)["shift_of_logits"]
    np.testing.assert_allclose(moved.logits[rows], plain.logits[rows] + shift, atol=2e-3)
    assert json.loads(plain.training)["shift_of_logits"] == 0


def test_learned_beats_random_at_every_share() -> None:
    from l2c_rt.compare.fit import fit_report

    model = toy_dit(depth=4)
    router = short(model, iterations=40, steps=8)
    for reuse in (0.25, 0.5, 0.75):
        report = fit_report(model, router.schedule(reuse=reuse), images=4)
        learned, random = report.fits[:2]
        assert learned.mean_psnr > random.mean_psnr


def test_the_same_seed_gives_the_same_router_and_another_seed_another() -> None:
    model = toy_dit()
    torch.manual_seed(1)
    first = short(model, lam=0.01)
    torch.manual_seed(2)
    assert np.array_equal(first.logits, short(model, lam=0.01).logits)
    assert not np.array_equal(first.logits, short(model, lam=0.01, seed=1).logits)


def test_learning_leaves_the_model_and_the_global_generator_alone() -> None:
    model = toy_dit()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    short(model, iterations=2)
    assert torch.equal(torch.rand(3), wanted)
    assert model.training
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == len(list(model.parameters())) - 1
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_latents_train_by_the_published_procedure() -> None:
    router = short(toy_dit(), data=latents(), lam=0.01, iterations=9)
    about = json.loads(router.training)
    assert about["pairs"] == "latents"
    assert about["options"]["cfg_scale"] is None
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.cat([x for x, _ in latents()]),
                                       torch.cat([y for _, y in latents()])), batch_size=2,
    )  # fmt: skip
    again = short(toy_dit(), data=loader, lam=0.01, iterations=9)
    assert np.array_equal(router.logits, again.logits)


def test_a_model_without_labels_learns_from_noise_and_from_bare_latents() -> None:
    model = toy_uvit(num_classes=-1)
    short(model)
    short(model, data=[x for x, _ in latents()])


def test_a_half_precision_model_learns() -> None:
    router = short(toy_dit().to(torch.bfloat16), iterations=3)
    assert np.isfinite(router.logits).all()


def test_diffusers_dit_learns() -> None:
    diffusers = pytest.importorskip("diffusers", reason="the diffusers extra is not installed")
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=4, in_channels=4,
        out_channels=8,
    )  # fmt: skip
    router = short(model, iterations=2)
    assert router.branches == ("attn-0", "mlp-0")


class Stop(Exception):
    """Raised in the middle of a run."""


def stop_after(model: Any, calls: int) -> Any:
    """Fail at that call of the last layer."""
    left = [calls]

    def count(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    return model.final_layer.register_forward_hook(count)


@pytest.mark.parametrize(
    ("options", "calls"),
    [({}, 3), ({}, 41), ({}, 50), ({"lam": 0.02, "lr": 0.1}, 41), ({"data": latents()}, 44)],
)
def test_a_stopped_run_is_resumed_bit_for_bit(
    tmp_path: Path, options: dict[str, Any], calls: int
) -> None:
    # 6 evaluations and 3 students per iteration on trajectories, 3 calls on latents.
    model = toy_dit(depth=1)
    options = {"iterations": 7 if "data" not in options else 19, "save_every": 2, **options}
    short(model, out=tmp_path / "whole", **options)
    hook = stop_after(model, calls)
    with pytest.raises(Stop):
        short(model, out=tmp_path / "stopped", resume=True, **options)
    hook.remove()
    resumed = short(model, out=tmp_path / "stopped", resume=True, **options)
    whole = Router.load(tmp_path / "whole" / "router.safetensors")
    assert np.array_equal(resumed.logits, whole.logits)
    assert resumed.training == whole.training
    lines = [
        [line.rpartition(",")[0] for line in (tmp_path / run / "log.csv").read_text().splitlines()]
        for run in ("whole", "stopped")
    ]
    assert lines[0] == lines[1]
    kept = [tensors_of(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "stopped")]
    assert kept[0].keys() == kept[1].keys()
    for name, value in kept[0].items():
        assert torch.equal(value, kept[1][name]), name


def tensors_of(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
from test_train import *
model = toy_dit(depth=1)
left = [{calls}]
def count(*_):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
model.final_layer.register_forward_hook(count)
short(model, out={out!r}, iterations=5, save_every=1)
"""


def test_a_killed_process_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    code = KILLED.format(paths=PATHS, calls=30, out=str(tmp_path / "killed"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    model = toy_dit(depth=1)
    whole = short(model, iterations=5)
    resumed = short(model, out=tmp_path / "killed", resume=True, iterations=5, save_every=1)
    assert np.array_equal(whole.logits, resumed.logits)
    assert not list((tmp_path / "killed").glob("*.partial"))


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    model = toy_dit(depth=1)
    first = short(model, out=tmp_path)
    hook = stop_after(model, 0)
    again = short(model, out=tmp_path, resume=True)
    hook.remove()
    assert np.array_equal(first.logits, again.logits)


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    short(toy_dit(depth=1), out=tmp_path)
    with pytest.raises(ValueError, match="begun with seed=0, now it is seed=1.*resume=False"):
        short(toy_dit(depth=1), out=tmp_path, resume=True, seed=1)
    with pytest.raises(ValueError, match="model of other shapes"):
        short(toy_dit(depth=2), out=tmp_path, resume=True)


@pytest.mark.parametrize("keep", [0, 5, 100, 1400])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    model = toy_dit(depth=1)
    short(model, out=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    content = path.read_bytes()
    assert len(content) > 1400
    path.write_bytes(content[:keep])
    with pytest.raises(ValueError, match="checkpoint.safetensors"):
        short(model, out=tmp_path, resume=True)


def test_the_folder_tells_how_it_went(tmp_path: Path) -> None:
    router = short(toy_dit(), out=tmp_path / "new" / "run", iterations=5)
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
    assert (folder / "router.png").read_bytes().startswith(b"\x89PNG")


def test_the_router_says_how_it_was_learned() -> None:
    router = short(toy_dit(), seed=3)
    about = json.loads(router.training)
    assert router.source == "l2c_rt.learn, seed 3"
    assert about["options"]["seed"] == 3
    assert about["options"]["iterations"] == 4
    assert about["versions"]["torch"] == torch.__version__
    assert len(about["model"]["shapes_sha256"]) == 64
    assert about["loss_at_end"] >= about["error_at_end"] >= 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1}, "steps=1 has no evaluation"),
        ({"steps": True}, "steps is True"),
        ({"iterations": 0}, "iterations is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"lam": -1.0}, "lam is -1.0"),
        ({"lam": float("nan")}, "lam is nan"),
        ({"reuse": 1.5}, "reuse is 1.5"),
        ({"straight_through": 2.0}, "straight_through is 2.0"),
        ({"lr": -0.1}, "lr is -0.1"),
        ({"seed": -1}, "seed is -1"),
        ({"save_every": 0}, "save_every is 0"),
        ({"resume": True}, "resume=True needs out="),
        ({"data": [], "cfg_scale": 2.0}, "cfg_scale=2 with data"),
        ({"data": []}, "data gave no batch"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        short(toy_dit(depth=1), **options)


def test_an_odd_number_of_evaluations_is_refused_for_dpm_solver() -> None:
    with pytest.raises(ValueError, match="even number of evaluations"):
        short(toy_uvit(), steps=7)


def test_a_model_without_adapter_is_refused() -> None:
    with pytest.raises(TypeError, match="no adapter"):
        short(torch.nn.Linear(2, 2))


def test_a_model_that_gives_nan_is_refused() -> None:
    model = toy_dit(depth=1)
    with torch.no_grad():
        model.final_layer.linear.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="error is nan at iteration 0"):
        short(model)


def test_the_default_rate_fits_the_run() -> None:
    assert default_lr(1) == default_lr(100) == 0.3
    assert default_lr(360) == pytest.approx(0.1)
    assert default_lr(10**6) == 1e-3


TORCHRUN = """
import sys
sys.path[:0] = {paths!r}
import torch.distributed as dist
from test_train import *
import os
router = short(toy_dit(depth=1), out={out!r}, **{options!r})
assert not dist.is_initialized()
router.save({out!r} + "/of-rank-" + os.environ["RANK"] + ".safetensors")
"""


def torchrun(tmp_path: Path, **options: Any) -> list[Router]:
    script = tmp_path / "script.py"
    script.write_text(TORCHRUN.format(paths=PATHS, out=str(tmp_path), options=options))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "2", str(script)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [Router.load(tmp_path / f"of-rank-{rank}.safetensors") for rank in range(2)]


def test_two_processes_learn_one_router_from_both_their_batches(tmp_path: Path) -> None:
    routers = torchrun(tmp_path, iterations=3)
    assert np.array_equal(routers[0].logits, routers[1].logits)
    assert json.loads(routers[0].training)["processes"] == 2
    # The same in one process: both batches' pairs, slopes averaged.
    task = task_of(toy_dit(depth=1), iterations=3, batch_size=4, lam=None, reuse=0.45, lr=None)
    state = start(task.rows.values(), 2, task.options)
    for iteration in range(3):
        each = [gather(task.bound_model, task.pairs(iteration, rank, None), state, task.options)
                for rank in range(2)]  # fmt: skip
        sums = Sums(each[0].slope + each[1].slope, each[0].pairs + each[1].pairs,
                    each[0].error + each[1].error)  # fmt: skip
        update(state, sums, task.options, "dit", Workers(0, 2))
    wanted, _ = shifted_to_share(state.learned(task.options).numpy(), 0.45, 0.1)
    np.testing.assert_allclose(routers[0].logits[list(state.rows)], wanted, atol=1e-4)
    alone = short(toy_dit(depth=1), iterations=3)
    assert not np.array_equal(alone.logits, routers[0].logits)


def test_the_guided_error_is_what_the_solver_reads() -> None:
    model = toy_dit(depth=1)
    bound_model = adapters.bind(model)
    labels = torch.tensor([1, 2])
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    solver = sampling.solver_for("ddim", 4)
    pairs = trajectory_pairs(bound_model, solver, {1: 2, 3: 0}, noise, labels, 3.0)
    for pair in pairs:
        assert pair.teacher.shape == noise.shape
