"""Taking a model apart for a fused backend, and refusing where that would change its meaning."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from l2c_rt.adapters.bound_model import FusableAttention, FusableMlp
from l2c_rt.adapters.wrappers import compiled_by_torch, package_of, replaced_forward


class NotFusable(Exception):
    """Raised while taking a model apart; the text says what stands in the way."""


def features(module: nn.Module, where: str) -> tuple[int, int]:
    """Inputs and outputs of a linear, also where something is wrapped around it.

    Raises ValueError where there is no nn.Linear at all.
    """
    for inner in module.modules():
        if isinstance(inner, nn.Linear):
            return inner.in_features, inner.out_features
    raise ValueError(f"{where} is {type(module).__name__} without an nn.Linear, so it has no size")


def require_unhooked(module: nn.Module, where: str) -> None:
    """Refuse a module that somebody has hooked, patched or parametrized."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise NotFusable(f"{where} has forward hooks, which a fused kernel would not call")
    if compiled_by_torch(module):
        raise NotFusable(f"{where} is compiled by torch.compile, whose graphs would not be run")
    if replaced_forward(module):
        raise NotFusable(f"{where}.forward was replaced, which a fused kernel would not call")
    if parametrize.is_parametrized(module):
        raise NotFusable(f"{where} is parametrized")
    for name, tensor in module._parameters.items():
        if tensor is not None and type(tensor) is not nn.Parameter:
            raise NotFusable(f"{where}.{name} is {type(tensor).__name__}, not a plain tensor")


def plain_linear(module: nn.Module, where: str) -> nn.Linear:
    """The module itself, if it is an nn.Linear that nobody has wrapped, replaced or hooked."""
    if type(module) is not nn.Linear:
        raise NotFusable(f"{where} is {package_of(module)}, not a plain nn.Linear")
    require_unhooked(module, where)
    return module


def linear_of_silu(module: nn.Module) -> nn.Linear | None:
    """The linear of a module that is plainly a linear of SiLU; None for any other."""
    if type(module) is not nn.Sequential or len(module) != 2 or type(module[0]) is not nn.SiLU:
        return None
    try:
        for part in (module, module[0]):
            require_unhooked(part, "modulation")
        return plain_linear(module[1], "modulation")
    except NotFusable:
        return None


def plain_norm(module: nn.Module, where: str) -> nn.LayerNorm:
    """The module itself, if it is a plain nn.LayerNorm over the last dimension."""
    if type(module) is not nn.LayerNorm or len(module.normalized_shape) != 1:
        raise NotFusable(f"{where} is {type(module).__name__}, not a plain nn.LayerNorm")
    require_unhooked(module, where)
    return module


def plain_patches(module: nn.Module, where: str) -> nn.Conv2d:
    """The module itself, if it is a convolution that cuts an image into square patches."""
    if type(module) is not nn.Conv2d:
        raise NotFusable(f"{where} is {type(module).__name__}, not nn.Conv2d")
    require_unhooked(module, where)
    size = module.kernel_size
    if size != module.stride or size[0] != size[1] or module.padding not in ((0, 0), "valid"):
        raise NotFusable(f"{where} is {module}, not one product per square patch")
    if module.groups != 1 or module.bias is None:
        raise NotFusable(f"{where} is {module}, wanted one group and a bias")
    return module


def gelu_kind(module: nn.Module, where: str) -> str:
    """ "tanh" or "none" of an nn.GELU."""
    if type(module) is not nn.GELU:
        raise NotFusable(f"{where} is {type(module).__name__}, not nn.GELU")
    return str(module.approximate)


def refuse_extra_layers(owner: nn.Module, names: tuple[str, ...], where: str) -> None:
    """Refuse submodules that act between the linears; identities and idle dropouts do not."""
    for name in names:
        module = getattr(owner, name, None)
        if module is None or isinstance(module, nn.Identity):
            continue
        if isinstance(module, nn.Dropout) and not (module.p > 0 and module.training):
            continue
        raise NotFusable(f"{where}.{name} is {module}, which a fused kernel would skip")


def packed_attention(attn: nn.Module, where: str) -> FusableAttention:
    """timm's and U-ViT's attention: one qkv linear, heads, projection."""
    require_unhooked(attn, where)
    refuse_extra_layers(attn, ("q_norm", "k_norm", "norm", "attn_drop", "proj_drop"), where)
    qkv = plain_linear(attn.get_submodule("qkv"), f"{where}.qkv")
    proj = plain_linear(attn.get_submodule("proj"), f"{where}.proj")
    heads = int(attn.num_heads)  # type: ignore[arg-type]
    if qkv.out_features != 3 * qkv.in_features or qkv.in_features % heads:
        raise NotFusable(
            f"{where}.qkv is {qkv.in_features} -> {qkv.out_features} for {heads} heads"
        )
    scale = getattr(attn, "scale", (qkv.in_features // heads) ** -0.5)
    return FusableAttention((qkv,), proj, heads, float(scale))


def plain_mlp(mlp: nn.Module, where: str) -> FusableMlp:
    """timm's and U-ViT's Mlp: fc1, GELU, fc2."""
    require_unhooked(mlp, where)
    refuse_extra_layers(mlp, ("drop", "drop1", "drop2", "norm"), where)
    return FusableMlp(
        plain_linear(mlp.get_submodule("fc1"), f"{where}.fc1"),
        plain_linear(mlp.get_submodule("fc2"), f"{where}.fc2"),
        gelu_kind(mlp.get_submodule("act"), f"{where}.act"),
    )
