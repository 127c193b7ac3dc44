"""Why no graph can hold a model's forward, whatever it computes."""

from __future__ import annotations

from torch import nn

from l2c_rt.adapters.model_checks import count_hooks


def why_not_captured(model: nn.Module) -> str:
    """Hooks, which a replay does not call, and what moves weights; "" where there is neither."""
    everywhere = nn.modules.module
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        return "forward hooks are registered for all modules, which a replay would not call"
    for name, module in model.named_modules():
        path = name or type(module).__name__
        attributes = vars(module)
        registry = attributes.get("_diffusers_hook")
        if registry is not None and registry.hooks:
            kinds = ", ".join(type(hook).__name__ for hook in registry.hooks.values())
            return f"{path} has hooks of diffusers, which a replay would not call: {kinds}"
        if "_hf_hook" in attributes:
            kind = type(attributes["_hf_hook"]).__name__
            return f"{path} has a hook of accelerate, which a replay would not call: {kind}"
        if count_hooks(module):
            return f"{path} has a forward hook, which a replay would not call"
        for owner in (module, attributes.get("processor")):
            if getattr(owner, "_parallel_config", None) is not None:
                return f"{path} runs in parallel with other devices"
    return ""
