"""Backends: how evaluations are run, and which backend a model gets on its device."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.backend import Backend
from l2c_rt.backends.cpu.backend import fused_cpu_backend
from l2c_rt.backends.cpu.branches import custom_forward
from l2c_rt.backends.cpu.packed import why_not_narrow
from l2c_rt.backends.cpu.products import Products, product_chooser
from l2c_rt.backends.delta_form import require_delta_form
from l2c_rt.backends.dynamic.backend import change_on, deciding_backend, fused_deciding_backend
from l2c_rt.backends.dynamic.fused import can_be_fused
from l2c_rt.backends.graphs.forward import GraphParts
from l2c_rt.backends.options import Options
from l2c_rt.backends.own_backend import own_backend
from l2c_rt.backends.reference import reference_backend
from l2c_rt.device.graphs import CudaRecorder

__all__ = ["NAMES", "Backend", "Options", "select_backend"]

NAMES = ("auto", "reference", "fused", "own")


def select_backend(name: str, options: Options, model: BoundModel) -> Backend:
    """The backend of that name for this model and device.

    "auto" is "own" for a model that is described by its sites, and the fused one where it can be
    had: not on a CPU under autocast, whose arithmetic only the reference follows.  A model whose
    description was found wrong has "own", whatever its name and options.
    Raises ValueError for an unknown name, or for one that cannot be had, with the reason.
    """
    if name not in NAMES:
        raise ValueError(f"backend: got {name!r}, wanted one of {', '.join(map(repr, NAMES))}")
    if model.refused:
        return _own_route(model, options, fused=name != "own")
    by_sites = model.open_stage is not None
    if options.precision is not None:
        _require_narrow_products(name, model, options)
    if options.delta_form:
        require_delta_form(model, options)
    if by_sites and (name in ("auto", "own") or (name == "fused" and can_be_fused(model))):
        return _own_route(model, options, fused=name != "own")
    if by_sites or name == "own":
        raise ValueError(_why_another_name(name, model))
    on_cpu = model.device.type == "cpu"
    under_autocast = name == "auto" and on_cpu and torch.is_autocast_enabled("cpu")
    reference = partial(reference_backend, model, delta_form=options.delta_form)
    if name == "reference" or under_autocast:
        return reference(_unused_options(options))
    why_not = _why_not_fused(model, options)
    if why_not and name == "fused":
        raise ValueError(f'backend="fused": {why_not}; compile with backend="reference"')
    if why_not and on_cpu:
        remark = f"fused backend not used: {why_not}"
        return reference(_unused_options(options), (remark,))
    if why_not:
        return reference((f"fused backend not used: {why_not}", *_unused_options(options)))
    if on_cpu:
        return fused_cpu_backend(model, options, _unused_options(options))
    backend: Backend = _cuda_support().fused_backend_on_gpu(model, options)
    return backend


def _why_another_name(name: str, model: BoundModel) -> str:
    kind = type(model.model).__name__
    by = "an adapter" if model.open_stage is None else "its sites"
    products = ", and give pack=False for its own products" if name == "reference" else ""
    return f"backend={name!r}: {kind} is described by {by}; leave backend= out{products}"


def _own_route(model: BoundModel, options: Options, *, fused: bool) -> Backend:
    """The backend of a model that runs its own forward, or with `fused` the adapter's description
    where a method can be carried by that."""
    unused = _unused_options(options, graphs=model.device.type == "cuda") + tuple(
        f"{option}= has no effect here: the model runs its own forward"
        for option in ("precision", "delta_form") if model.refused and getattr(options, option)
    )  # fmt: skip
    products = _products(model, options)
    if fused and products is not None and can_be_fused(model):
        return fused_deciding_backend(model, unused, merge=options.merge, products=products)
    if model.dynamic is not None:
        return deciding_backend(
            model, unused, merge=options.merge, graphs=_graphs(model, options),
            change=change_on(model.device), products=products,
        )  # fmt: skip
    return own_backend(
        model, unused, merge=options.merge, graphs=_graphs(model, options), products=products
    )


def _require_narrow_products(name: str, model: BoundModel, options: Options) -> None:
    """Raise ValueError where a `precision` cannot be had, with the reason."""
    if model.fusable is None or name == "reference":
        why_not = model.why_not_fusable or "only the fused backend has it"
    elif options.precision == "fp8":
        why_not = _cuda_support().why_not_quantized(model) or _why_not_fused(model, options)
    else:
        why_not = why_not_narrow(model.model)
    if why_not:
        raise ValueError(f'precision="{options.precision}": {why_not}; leave precision= out')


def _cuda_support() -> Any:
    """What only a GPU needs is imported only there."""
    return importlib.import_module("l2c_rt.backends.cuda.support")


def _why_not_fused(model: BoundModel, options: Options) -> str:
    if model.fusable is None:
        return model.why_not_fusable
    if model.device.type == "cpu":
        return custom_forward(model.fusable)
    if model.device.type != "cuda":
        return f"no fused backend for device {model.device}"
    if model.unfused_on_gpu:
        return model.unfused_on_gpu
    reason: str = _cuda_support().why_not(model, options)
    return reason


def _graphs(model: BoundModel, options: Options) -> GraphParts | None:
    """How a model's own forward is captured; None where it is not."""
    if model.device.type != "cuda" or options.graph == "off":
        return None
    return GraphParts(partial(CudaRecorder, places=options.places), options.forgiving)


def _products(model: BoundModel, options: Options) -> Products | None:
    """The products of a model's own linears; None where they are left to the model."""
    if model.device.type != "cpu" or not (options.pack and options.tune):
        return None
    return Products(product_chooser())


def _unused_options(options: Options, *, graphs: bool = False) -> tuple[str, ...]:
    """Notes on options that mean nothing to a backend, which may have graphs of single steps."""
    default = Options()
    ignored = {
        "residual_dtype": options.residual_dtype != default.residual_dtype,
        "graph": options.graph not in ((default.graph, "off") if graphs else ("step",)),
    }
    return tuple(
        f"{name}= has no effect here: only the fused CUDA backend uses it"
        for name, is_set in ignored.items() if is_set
    )  # fmt: skip
