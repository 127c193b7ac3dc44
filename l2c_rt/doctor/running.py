"""What runs: cache memory, kernels, small models, another thread, and how fast the machine is."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from l2c_rt.api import Compiled, compile
from l2c_rt.doctor.finding import Finding
from l2c_rt.measure.ceilings import quick_ceilings
from l2c_rt.measure.clocks import clock_for
from l2c_rt.memory.arena import SlotMemory
from l2c_rt.models import DiT, UViT
from l2c_rt.policies import EveryN

STEPS = 6
ROUNDING = 2e-4
"""Of float32 models of depth 2, as |difference| / |output|; with TF32 ten times as much."""

CARDS = {"H100": (3.35e12, 495e12), "H200": (4.8e12, 495e12), "A100": (1.555e12, 156e12)}
"""Bytes and bfloat16 multiply-accumulates per second, by the makers' data sheets."""
EXPECTED_SHARE = 0.55


def memory(device: torch.device) -> Iterator[Finding]:
    """Written, given back and taken again at the same address, and poisoned."""
    slots = SlotMemory(3, (1000,), torch.float32, device)
    before = slots.slots[1].data_ptr()
    slots.slots[1].fill_(7.0)
    if not bool((slots.slots[1] == 7.0).all()):
        yield Finding("memory", "FAIL", "what was written is not what is read")
    slots.sleep()
    slept = slots.nbytes
    slots.wake()
    slots.poison()
    problems = [
        text
        for text, bad in (
            ("asleep it keeps its memory", slept != 0),
            ("awake it has another address", slots.slots[1].data_ptr() != before),
            ("poisoned it is not NaN", not bool(slots.slots[1].isnan().all())),
        )
        if bad
    ]
    status = "FAIL" if problems else "OK"
    yield Finding("memory", status, ", ".join(problems) or "sleeps, wakes, keeps its address")


def models(device: torch.device) -> Iterator[Finding]:
    """A DiT and a U-ViT by the fused backend: graphs as kernel by kernel, both as the model."""
    for name, model in small_models(device):
        plain = _latents(compile(model, EveryN(2), steps=STEPS, backend="reference"), device)
        fused = compile(model, EveryN(2), steps=STEPS, backend="fused")
        ours = _latents(fused, device)
        error = float((ours - plain).norm() / plain.norm())
        allowed = ROUNDING * (10 if device.type == "cuda" else 1)
        text = f"differs from the reference by {error:.1e}, where {allowed:.0e} is rounding"
        if not error <= allowed:
            yield Finding(name, "FAIL", text, 'backend="reference" runs; report this line')
            continue
        yield Finding(name, "OK", text)
        if device.type == "cuda":
            eager = compile(model, EveryN(2), steps=STEPS, backend="fused", graph="off")
            same = torch.equal(_latents(eager, device), ours)
            text = "bitwise as kernel by kernel" if same else "others than kernel by kernel"
            yield Finding(f"{name} graphs", "OK" if same else "FAIL", text)
        yield _on_another_thread(name, fused, ours, device)


def _on_another_thread(name: str, fast: Compiled, ours: Tensor, device: torch.device) -> Finding:
    results: list[Tensor] = []
    thread = threading.Thread(target=lambda: results.append(_latents(fast, device)))
    thread.start()
    thread.join()
    same = len(results) == 1 and torch.equal(results[0], ours)
    text = "the same results" if same else "other results than on the main thread, or an error"
    return Finding(f"{name} on a thread", "OK" if same else "FAIL", text)


def rates(device: torch.device) -> Iterator[Finding]:
    """A copy and a product, beside the data sheet of a card that is known."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rate = quick_ceilings(clock_for(device), device, dtype)
    text = (
        f"copies {rate.bytes_per_second / 1e9:.0f} GB/s, multiplies "
        f"{2 * rate.macs_per_second / 1e12:.2f} TFLOP/s in {str(dtype)[6:]}"
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    card = next((card for card in CARDS if card in name), "")
    if not card:
        yield Finding("rates", "OK", text)
        return
    shares = (rate.bytes_per_second / CARDS[card][0], rate.macs_per_second / CARDS[card][1])
    slow = min(shares) < EXPECTED_SHARE
    text += f": {shares[0]:.0%} and {shares[1]:.0%} of the data sheet of {card}"
    remedy = "another process, a low clock or a power limit: see nvidia-smi -q -d PERFORMANCE"
    yield Finding("rates", "WARN" if slow else "OK", text, remedy if slow else "")


def small_models(device: torch.device) -> Iterator[tuple[str, nn.Module]]:
    """With random weights everywhere: what begins at zero would hide what is behind it."""
    dit = DiT(depth=2, hidden_size=64, num_heads=2, input_size=8, num_classes=10)
    uvit = UViT(img_size=8, patch_size=2, in_chans=4, embed_dim=64, depth=2, num_heads=2,
                num_classes=11, skip=True)  # fmt: skip
    for name, model in (("dit", dit), ("uvit", uvit)):
        generator = torch.Generator("cpu").manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
        yield name, model.eval().to(device)


def _latents(fast: Compiled, device: torch.device) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(1)
    noise = torch.randn(2, 4, 8, 8, generator=generator, device="cpu")
    return fast.sample(noise.to(device), [1, 2])
