"""What about a user's model stands against compiling it, or is not carried out once compiled."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from l2c_rt.adapters.wrappers import (
    compiled_by_torch,
    diffusers_hooks,
    how_to_unwrap,
    replaced_by,
    replaced_forward,
    replacing_hook,
    without_torch_compile,
)


def check_mode(model: nn.Module) -> None:
    """Refuse a model whose forward is random: what is reused would not be what was computed."""
    if not model.training:
        return
    for name, module in model.named_modules():
        drops = isinstance(module, nn.Dropout) and module.p > 0
        if drops or getattr(module, "dropout_prob", 0) > 0:
            raise ValueError(
                f"the model is in training mode and {name!r} drops at random; call model.eval()"
            )


def check_bypassed(modules: Sequence[nn.Module]) -> tuple[str, ...]:
    """Notes on what is left out of modules whose children are run one by one: hooks, torch.compile.

    Raises ValueError for a forward that was replaced on an instance: it would be left out.
    """
    notes: dict[str, None] = {}
    for module in modules:
        own = without_torch_compile(module)
        name = type(own).__name__
        if replaced_forward(own):
            raise ValueError(
                f"{name}.forward was replaced on the instance; a compiled model runs its children "
                f"one by one and would not call it: {how_to_unwrap(own)}"
            )
        if count_hooks(module) or count_hooks(own):
            notes[f"forward hooks on {name} are not called"] = None
        if compiled_by_torch(module) or compiled_by_torch(own):
            notes[
                f"the graphs that torch.compile made of {name} are not run: its children are, one "
                "by one"
            ] = None
    return tuple(sorted(notes))


def check_device(model: nn.Module) -> None:
    """Refuse to run a model whose weights are on the meta device and are not loaded by its calls.

    It may be compiled, to be counted.
    """
    first = next(model.parameters(), None)
    if first is None or first.device.type != "meta":
        return
    if not any("_hf_hook" in vars(module) for module in model.modules()):
        raise ValueError(
            "the model's weights are on the meta device: load them, or take off what offloads them "
            "(accelerate.hooks.remove_hook_from_module(model, recurse=True))"
        )


def check_other_hooks(model: nn.Module) -> None:
    """Refuse what acts on calls of modules that a compiled model may leave out.

    Raises ValueError for another cache, and for offloading that loads ahead with a stream.
    """
    config = getattr(model, "_cache_config", None)
    if config is not None:
        raise ValueError(
            f"{type(model).__name__} has a cache of diffusers enabled, {type(config).__name__}; "
            "two caches would each reuse what the other computed: call model.disable_cache()"
        )
    for name, module in model.named_modules():
        if hook := replacing_hook(module):
            raise ValueError(replaced_by(hook, module))
        for hook in diffusers_hooks(module):
            if getattr(getattr(hook, "group", None), "stream", None) is not None:
                raise ValueError(
                    f"{name or 'the model'}: {type(hook).__name__} of diffusers loads weights "
                    "ahead with a stream, in an order in which every module is called, and a "
                    "compiled model does not call those that it reuses: "
                    "model.enable_group_offload(..., use_stream=False)"
                )


def count_hooks(module: nn.Module) -> int:
    """Forward hooks and forward pre-hooks of the module itself, and diffusers' hooks."""
    own = len(module._forward_hooks) + len(module._forward_pre_hooks)
    return own + len(diffusers_hooks(module)) if "_diffusers_hook" in vars(module) else own
