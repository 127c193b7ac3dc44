"""Which model a router was learned on: a text that its files carry and `compile` compares.

    shapes:<64 hex digits> bfloat16:<64 hex digits> float16:<64 hex digits>

`shapes` is of the names and shapes of parameters and buffers. The others are of up to 65,536 of
their values, evenly spaced, once rounded to bfloat16 and once to float16. Casting a model leaves
one of them as it was: rounding twice to one type is rounding once. Devices make no difference.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

MAX_VALUES = 1 << 16
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def model_fingerprint(model: nn.Module) -> str:
    """The fingerprint of the model as it is now; reads at most 65,536 of its values."""
    state = {_plain(name): tensor for name, tensor in model.state_dict(keep_vars=True).items()}
    names = sorted(state)
    lines = "\n".join(f"{name} {tuple(state[name].shape)}" for name in names)
    values = _sampled([state[name] for name in names])
    rounded = {
        "bfloat16": values.to(torch.bfloat16).view(torch.int16),
        "float16": values.to(torch.float16).view(torch.int16),
    }
    digests = {"shapes": hashlib.sha256(lines.encode()).hexdigest()}
    for name, bits in rounded.items():
        content = bits.numpy().astype("<i2").tobytes()
        digests[name] = hashlib.sha256(content).hexdigest()
    return " ".join(f"{name}:{digest}" for name, digest in digests.items())


def fingerprint_difference(model: str, other: str) -> str:
    """What two fingerprints differ in, as a noun; "" where they can be of one model."""
    ours, theirs = (dict(part.split(":") for part in text.split()) for text in (model, other))
    if ours["shapes"] != theirs["shapes"]:
        return "parameter names or shapes"
    same = any(ours[name] == theirs[name] for name in ("bfloat16", "float16"))
    return "" if same else "weights"


def _plain(name: str) -> str:
    """A parameter's name without what torch.compile and FSDP put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


@torch.no_grad()
def _sampled(tensors: list[Tensor]) -> Tensor:
    """Up to `MAX_VALUES` of the floating-point values, as float32 on the CPU."""
    # Other kinds (quantized, distributed, on meta) have no values to take; their shapes count.
    plain = [
        tensor.detach() for tensor in tensors
        if type(tensor) in (Tensor, nn.Parameter) and tensor.is_floating_point()
        and tensor.layout == torch.strided and tensor.device.type != "meta" and tensor.numel()
    ]  # fmt: skip
    share = max(1, MAX_VALUES // max(len(plain), 1))
    parts = [torch.empty(0, dtype=torch.float32, device="cpu")]
    for tensor in plain[:MAX_VALUES]:
        flat = tensor.reshape(-1)
        parts.append(flat[:: -(-len(flat) // share)].to("cpu", torch.float32))
    return torch.cat(parts)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of the names, shapes, dtypes and all bytes of parameters and buffers, as hex digits.

    The same on every device; reads the whole model.
    """
    digest = hashlib.sha256()
    state = {_plain(name): tensor for name, tensor in model.state_dict().items()}
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(memoryview(tensor.cpu().reshape(-1).contiguous().view(torch.uint8).numpy()))
    return digest.hexdigest()
