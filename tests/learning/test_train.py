"""A learned router: what it gives up, the wanted share, what learning leaves alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from toy_learning import learn_briefly, toy_latents
from toys import toy_dit, toy_uvit

from l2c_rt.comparison.fit import fit_report


def test_dit_logits_are_clamped_and_uvit_logits_are_not() -> None:
    wide = {"lam": 100.0, "lr": 3.0, "iterations": 5}
    dit = learn_briefly(toy_dit(depth=1), **wide)
    assert dit.logits.min() == -5.0
    uvit = learn_briefly(toy_uvit(), **wide)
    assert uvit.logits.min() < -8.0


def test_rows_without_an_evaluation_hold_zeros_and_the_others_do_not() -> None:
    dit = learn_briefly(toy_dit(), steps=7, lam=0.01)
    assert dit.logits.shape == (7, 6)
    assert np.flatnonzero(dit.logits.any(axis=1)).tolist() == [0, 2, 4]
    uvit = learn_briefly(toy_uvit(), steps=8, lam=0.01)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_branches_that_do_not_matter_are_given_up_first(dtype: torch.dtype) -> None:
    router = learn_briefly(deaf_dit((1,)).to(dtype), iterations=40, reuse=1 / 3)
    reused = ~router.schedule().compute
    assert reused[[1, 3, 5]].tolist() == 3 * [[False, False, True, True, False, False]]
    assert not reused[[0, 2, 4]].any()


def test_a_fixed_penalty_gives_up_what_does_not_matter_too() -> None:
    router = learn_briefly(deaf_dit((0, 2)), iterations=60, lam=1e-6, lr=0.3)
    scores = router.scores[[0, 2, 4]]
    assert scores[:, [0, 1, 4, 5]].max() < 0.1
    assert scores[:, [2, 3]].max() > 0.5


@pytest.mark.parametrize("reuse", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("toy", [toy_dit, toy_uvit])
def test_the_default_schedule_reuses_just_the_wanted_share(toy: Any, reuse: float) -> None:
    router = learn_briefly(toy(), reuse=reuse)
    rows = list(router.valid_rows())
    reused = ~router.schedule().compute
    assert reused[rows].sum() == round(reuse * reused[rows].size)
    assert router.schedule() == router.schedule(reuse=reuse)


def test_a_share_and_a_penalty_together_move_the_cut_only() -> None:
    plain, moved = (learn_briefly(toy_dit(), lam=0.01, reuse=reuse) for reuse in (None, 0.5))
    rows = [0, 2, 4]
    shift = json.loads(moved.training)["shift_of_logits"]
    np.testing.assert_allclose(moved.logits[rows], plain.logits[rows] + shift, atol=2e-3)
    assert json.loads(plain.training)["shift_of_logits"] == 0


def test_learned_beats_random_at_every_share() -> None:
    model = toy_dit(depth=4)
    router = learn_briefly(model, iterations=40, steps=8)
    for reuse in (0.25, 0.5, 0.75):
        report = fit_report(model, router.schedule(reuse=reuse), images=4)
        learned, random = report.fits[:2]
        assert learned.mean_psnr > random.mean_psnr


def test_the_same_seed_gives_the_same_router_and_another_seed_another() -> None:
    model = toy_dit()
    torch.manual_seed(1)
    first = learn_briefly(model, lam=0.01)
    torch.manual_seed(2)
    assert np.array_equal(first.logits, learn_briefly(model, lam=0.01).logits)
    assert not np.array_equal(first.logits, learn_briefly(model, lam=0.01, seed=1).logits)


def test_learning_leaves_the_model_and_the_global_generator_alone() -> None:
    model = toy_dit()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    learn_briefly(model, iterations=2)
    assert torch.equal(torch.rand(3), wanted)
    assert model.training
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == len(list(model.parameters())) - 1
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_latents_train_by_the_published_procedure() -> None:
    router = learn_briefly(toy_dit(), data=toy_latents(), lam=0.01, iterations=9)
    about = json.loads(router.training)
    assert about["pairs"] == "latents"
    assert about["options"]["cfg_scale"] is None
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.cat([x for x, _ in toy_latents()]),
                                       torch.cat([y for _, y in toy_latents()])), batch_size=2,
    )  # fmt: skip
    again = learn_briefly(toy_dit(), data=loader, lam=0.01, iterations=9)
    assert np.array_equal(router.logits, again.logits)


def test_a_model_without_labels_learns_from_noise_and_from_bare_toy_latents() -> None:
    model = toy_uvit(num_classes=-1)
    from_noise = learn_briefly(model)
    bare, labelled = (
        learn_briefly(model, data=data) for data in ([x for x, _ in toy_latents()], toy_latents())
    )
    assert np.array_equal(bare.logits, labelled.logits)
    rows = list(from_noise.valid_rows().values())
    assert (from_noise.logits[rows] != bare.logits[rows]).all()


def test_diffusers_dit_learns() -> None:
    diffusers = pytest.importorskip("diffusers", reason="the diffusers extra is not installed")
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=4, in_channels=4,
        out_channels=8,
    )  # fmt: skip
    router = learn_briefly(model, iterations=2)
    assert router.branches == ("attn-0", "mlp-0")


def test_a_model_that_gives_nan_is_refused() -> None:
    model = toy_dit(depth=1)
    with torch.no_grad():
        model.final_layer.linear.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="error is nan at iteration 0"):
        learn_briefly(model)
