"""The weights of a checkpoint are found wherever training programs put them, or asked for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_weights import SMALL_DIT, SMALL_UVIT, filled, write
from torch import nn
from torch.optim.swa_utils import AveragedModel

from l2c_rt.models import DiT, UViT, load_dit, load_uvit
from l2c_rt.models.state_dicts import find_weights

TINY = SMALL_DIT | {"depth": 1, "hidden_size": 8, "input_size": 4}
MODEL = filled(DiT, TINY)
STATE = {name: tensor.detach() for name, tensor in MODEL.state_dict().items()}
OTHER = {name: tensor + 1 for name, tensor in STATE.items()}


def under(prefix: str, state: dict[str, Any] = STATE) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in state.items()}


def loads(path: Any, saved: Any, **options: Any) -> bool:
    """Whether the weights that are loaded are `STATE`, and not `OTHER`."""
    loaded = load_dit(write(path, saved), num_heads=2, **options).state_dict()
    return all(torch.equal(loaded[name], tensor) for name, tensor in STATE.items())


class Lightning(nn.Module):
    """A module of a training framework: the model, a loss with weights, an averaged copy."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.loss = copy.deepcopy(MODEL), nn.Linear(2, 2)
        self.encoder = nn.Linear(2, 2)


def compiled_blocks() -> dict[str, Any]:
    """As torch.compile of every block, and of the whole, name them."""
    return under("module._orig_mod.", {
        name.replace("blocks.0.", "blocks.0._orig_mod."): tensor for name, tensor in STATE.items()
    })  # fmt: skip


@pytest.mark.parametrize(
    "saved",
    [
        under("module."), under("_orig_mod."), under("module._orig_mod."),
        under("_orig_mod.module."),
        under("model."), under("net.module."), under("model.diffusion_model."), under("denoiser."),
        under("_fsdp_wrapped_module."), compiled_blocks(), {"state_dict": under("model.")},
        {"model": STATE}, {"model_state_dict": STATE, "optimizer_state_dict": {"state": {}}},
        {"checkpoint": {"generator": STATE}, "epoch": 3}, {"state_dict": Lightning().state_dict()},
        AveragedModel(MODEL).state_dict(), nn.DataParallel(MODEL).state_dict(),
        {"ema": STATE, "model": OTHER}, {"model_ema": STATE, "model": OTHER},
        {"ema_state_dict": STATE, "state_dict": OTHER}, under("ema.") | under("model.", OTHER),
        under("ema_model.module.") | under("model.", OTHER), {"state_dict_ema": STATE} | OTHER,
        {"ema": under("module."), "model": under("module.", OTHER)},
        {"model": STATE, "teacher": OTHER},
        {"ema": {"decay": 0.999, "shadow": STATE}, "model": OTHER}, STATE | {"config": {"a": 1}},
    ],
    ids=lambda saved: str(sorted(saved)[:3])[:60],
)  # fmt: skip
def test_weights_are_found_where_training_programs_put_them(tmp_path, saved):
    assert loads(tmp_path / "w.pt", saved)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model.", "ema.module."])
def test_prefixes_are_the_same_in_safetensors(tmp_path, prefix):
    saved = under(prefix) | under("other.part.", {"bias": torch.ones(1)})
    assert loads(tmp_path / "w.safetensors", saved)


@pytest.mark.parametrize(
    ("saved", "key"),
    [
        ({"ema": OTHER, "model": STATE}, "model"),
        ({"ema_0.999": OTHER, "ema_0.9999": STATE}, "ema_0.9999"),
        ({"student": STATE, "teacher": OTHER}, "student"),
        ({"state_dict": under("first.") | under("second.", OTHER)}, "state_dict.first"),
        (under("first.") | under("second.", OTHER), "first."),
        ({"a.b": {"c": STATE}, "d": OTHER}, "a.b"),
    ],
)
def test_a_key_says_which_of_several_models_is_meant(tmp_path, saved, key):
    assert loads(tmp_path / "w.pt", saved, key=key)
    with pytest.raises(ValueError, match="no weights under key='absent'; there are some under"):
        load_dit(tmp_path / "w.pt", num_heads=2, key="absent")


def test_several_models_without_a_key_are_refused_by_their_names(tmp_path):
    for saved in ({"ema_fast": STATE, "ema_slow": OTHER}, {"student": STATE, "teacher": OTHER}):
        first, second = saved
        with pytest.raises(ValueError, match=rf"several models: '{first}', '{second}'; .*key="):
            load_dit(write(tmp_path / "w.pt", saved), num_heads=2)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (MODEL, r"whole pickled l2c_rt\.models\.dit\.DiT.*torch\.save\(model\.state_dict\(\)"),
        ({"model": MODEL, "epoch": 1}, r"its 'model' holds a whole pickled .*state_dict\(\)"),
        ({"ema": MODEL}, r"its 'ema' holds a whole pickled"),
        ([STATE], "holds a list, wanted a dict of weights"),
        ({"epoch": 3}, r"the file has epoch; wanted a state dict"),
        ({"transformer_blocks.0.attn1.to_q.weight": torch.ones(1)}, "diffusers' names.*load_diff"),
        ({"base.blocks.0.attn.qkv.base_layer.weight": torch.ones(1)}, "peft.*merge_and_unload"),
        (filled(UViT, SMALL_UVIT).state_dict(), "no blocks.0.attn.qkv.weight"),
        (STATE | {"blocks.0._orig_mod.attn.qkv.weight": torch.ones(1)}, "two tensors have one"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_what_holds_no_weights_of_this_model_is_refused_with_the_remedy(tmp_path, saved, message):
    with pytest.raises(ValueError, match=message) as raised:
        load_dit(write(tmp_path / "w.pt", saved), num_heads=2)
    assert str(tmp_path / "w.pt") in str(raised.value)


def test_a_uvit_is_found_by_the_same_rules(tmp_path):
    state = filled(UViT, SMALL_UVIT).state_dict()
    path = write(tmp_path / "w.ckpt", {"state_dict": under("nnet.module.", state)})
    loaded = load_uvit(path, num_heads=2).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_dicts_that_hold_each_other_end():
    loop: dict[str, Any] = {}
    loop |= {f"a{k}": loop for k in range(1000)}
    wide = {f"b{k}": {f"c{j}": loop for j in range(100)} for k in range(100)}
    with pytest.raises(ValueError, match="no anchor"):
        find_weights(wide, int, "anchor", "")
    with pytest.raises(ValueError, match="more than 64 models"):
        find_weights({f"m{k}.anchor": 1 for k in range(10_000)}, int, "anchor", "")


@pytest.mark.parametrize(("rows", "null"), [(1, False), (2, True), (10, False), (11, True)])
def test_a_usual_number_of_label_rows_has_no_null_class_unless_said(tmp_path, rows, null):
    state = STATE | {"y_embedder.embedding_table.weight": torch.ones(rows, 8)}
    path = write(tmp_path / "w.pt", state)
    table = load_dit(path, num_heads=2).y_embedder
    assert table.num_classes == rows - null
    for classes in {rows, max(rows - 1, 1)}:
        told = load_dit(path, num_heads=2, num_classes=classes).y_embedder
        assert (told.num_classes, told.embedding_table.num_embeddings) == (classes, rows)
    with pytest.raises(ValueError, match=rf"num_classes is 5, but the label table has {rows} rows"):
        load_dit(path, num_heads=2, num_classes=5)
