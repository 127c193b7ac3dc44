"""What a call does at its sites, found before it: the forward of a twin without data.

Streams are the tensors that blocks hand on to each other; a gap is a place between two blocks where
the model's own code, or a later block, needs what the first one gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.own.block_sites import WHOLE_MODEL
from l2c_rt.adapters.own.meta_twin import META, meta_twin, without_data
from l2c_rt.adapters.own.modes import run_leaving_modes, run_observed
from l2c_rt.adapters.own.observe import Kind, Observer, SiteCall, Stream
from l2c_rt.adapters.own.sites import Site
from l2c_rt.adapters.own.stage import Stage


@dataclass(frozen=True, slots=True)
class ObservedSite:
    """What one site does in a forward.

    `outputs` are shapes and dtypes of its outputs, of all calls; `has_gap` says that it must
    not be merged with the site before it.  Of a block: `streams[j]` is the argument that output j
    continues, None where it continues none; `overwritten` and `returned` are those of `SiteCall`.
    """

    calls: int
    outputs: tuple[Kind, ...]
    streams: tuple[Stream | None, ...] = ()
    has_gap: bool = True
    overwritten: tuple[str, ...] = ()
    returned: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """A forward's sites, by name, and the multiply-accumulates of each and, as "", of the rest."""

    sites: Mapping[str, ObservedSite]
    linear_macs: Mapping[str, int]
    attention_macs: Mapping[str, int]


class ProbeStoppedError(Exception):
    """The forward cannot run without data: it reads values."""


def probe(
    model: nn.Module, sites: Sequence[Site], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Probe:
    """Run the model's forward on tensors without data, of the shapes of the arguments.

    On meta, which is faster, or where that stops on fake tensors, which say that they are on the
    device: a forward may enter an autocast of its device, and meta has none.
    Raises ProbeStoppedError with the reason, where it runs on neither.
    """
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    device = tensors[0].device
    if not torch.is_autocast_enabled(device.type):
        try:
            return _probe_on(META, model, sites, args, kwargs)
        except ProbeStoppedError:
            pass

    def without_values() -> Probe:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _probe_on(device, model, sites, args, kwargs)

    return run_leaving_modes(without_values)


def _probe_on(
    device: torch.device,
    model: nn.Module,
    sites: Sequence[Site],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Probe:
    dtypes = [leaf.dtype for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    wide = [dtype for dtype in dtypes if dtype.is_floating_point and dtype.itemsize > 1]
    observer = Observer(sites, follow=True)
    paths = [path for site in sites for path in site.children]
    try:
        twin = meta_twin(model, wide[0] if wide else torch.get_default_dtype(), device)
        stage = Stage(twin, paths, observer.visit)
        args, kwargs = without_data(args, device), without_data(dict(kwargs), device)
        with torch.no_grad():
            run_observed(observer, partial(stage, *args, **kwargs))
    except Exception as error:
        # Any: this is the model's code in a place that it was not written for.
        text = str(error).partition("\n")[0][:100]
        raise ProbeStoppedError(f"{type(error).__name__}: {text}") from error
    return probe_of(observer, sites)


def probe_of(observer: Observer, sites: Sequence[Site]) -> Probe:
    """What an observer saw of a whole forward."""
    calls = observer.calls
    streams = _streams(calls)
    observed: dict[str, ObservedSite] = {}
    counts = Counter(call.site.name for call in calls)
    order = {site.name: i for i, site in enumerate(sites)}
    for i, call in enumerate(calls):
        name = call.site.name
        outputs = tuple(output for output in call.outputs if output is not None)
        if name in observed:
            outputs = observed[name].outputs + outputs
        before = calls[i - 1] if i else None
        follows = before is not None and order[before.site.name] + 1 == order[name]
        once = before is not None and counts[name] == counts[before.site.name] == 1
        joined = follows and once and _joined(calls[i - 1], call, streams[i - 1], streams[i])
        written = call.overwritten if call.site.is_block else ()
        observed[name] = ObservedSite(
            counts[name], outputs, streams[i], not joined, written, call.returned
        )
    return Probe(observed, dict(observer.linear_macs), dict(observer.attention_macs))


def _joined(
    before: SiteCall,
    call: SiteCall,
    streams_before: tuple[Stream | None, ...],
    streams: tuple[Stream | None, ...],
) -> bool:
    """Whether what a block hands on goes to the next one as it is, and nowhere else."""
    if before.held or not any(streams):
        return False
    if any(
        s is None and o is not None for s, o in zip(streams_before, before.outputs, strict=True)
    ):
        return False
    names = [None if stream is None else stream.name for stream in streams_before]
    return all(
        stream is None
        or (stream.name in call.continued and names[call.continued[stream.name]] == stream.name)
        for stream in streams
    )


def _streams(calls: Sequence[SiteCall]) -> list[tuple[Stream | None, ...]]:
    """For each call, the argument that each output continues."""
    votes: dict[tuple[type, int], Counter[str]] = {}
    for before, call in pairwise(calls):
        if before.kind is call.kind:
            for name, number in call.continued.items():
                votes.setdefault((call.kind, number), Counter())[name] += 1
    return [
        tuple(
            _stream(call, j, kind, votes.get((call.kind, j))) for j, kind in enumerate(call.outputs)
        )
        for call in calls
    ]


def streams_by_shape(call: SiteCall) -> tuple[Stream | None, ...]:
    """The argument that each output continues, by their shapes alone."""
    return tuple(_stream(call, j, output, None) for j, output in enumerate(call.outputs))


def _stream(
    call: SiteCall, number: int, output: Kind | None, votes: Counter[str] | None
) -> Stream | None:
    """By what other blocks of the class do with it; else the only argument of its shape."""
    if not call.site.is_block or output is None or not output[1].is_floating_point:
        return None
    if call.site == WHOLE_MODEL and (latents := _latents(call, number, output)):
        return latents
    alike = [stream for stream, kind in call.inputs.items() if kind == output]
    if votes:
        name = votes.most_common(1)[0][0]
        alike = [stream for stream in alike if stream.name == name]
    return alike[0] if len(alike) == 1 else None


def _latents(call: SiteCall, number: int, output: Kind) -> Stream | None:
    """The latents are a model's first argument; where that is a list, output j continues item j.

    The output has their shape, or another number of channels: twice as many where it also predicts
    variances, fewer where conditions are put behind the latents.
    """
    first = min((stream.position for stream in call.inputs if stream.position >= 0), default=None)
    streams = [s for s in call.inputs if s.position == first and s.item in (None, number)]
    if len(streams) != 1:
        return None
    (sizes, dtype), (shape, own_dtype) = call.inputs[streams[0]], output
    if dtype != own_dtype or len(sizes) != len(shape):
        return None
    other = [d for d, (a, b) in enumerate(zip(sizes, shape, strict=True)) if a != b]
    if not other:
        return streams[0]
    # Of tokens [B, N, C] the last one; else before height and width, and frames may come first.
    channels = range(1, len(shape) - 2) if len(shape) > 3 else (len(shape) - 1,)
    d = other[0]
    fits = len(other) == 1 and d in channels and (shape[d] == 2 * sizes[d] or shape[d] < sizes[d])
    return streams[0]._replace(sizes=shape) if fits else None
