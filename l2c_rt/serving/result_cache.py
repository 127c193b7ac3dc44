"""The latents of finished requests, for others that ask for the same or for something close."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from l2c_rt.serving.counts import ResultStats
from l2c_rt.serving.intake import Asked
from l2c_rt.serving.request import Request
from l2c_rt.serving.results import ApproximateResults, ExactResults

OVERHEAD_BYTES = 1024
"""Of an entry, beside its tensors."""


@dataclass(slots=True, eq=False)
class Entry:
    """Latents on the host.  Of the requests for them, counted by `hits`, number `due` is computed;
    infinite while one is."""

    place: Hashable
    embedding: Tensor | None
    latents: Tensor
    hits: int = 0
    due: float = 1.0
    interval: float = 1.0

    @property
    def key(self) -> Hashable:
        """Where it lies: of one place there may be many that have an embedding."""
        return self.place if self.embedding is None else self

    @property
    def nbytes(self) -> int:
        embedding = 0 if self.embedding is None else self.embedding.nbytes
        return self.latents.nbytes + embedding + OVERHEAD_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A request that is computed: where its latents will lie, and the entry that they check."""

    cache: ResultCache
    place: Hashable
    embedding: Tensor | None
    weights: int
    checked: Entry | None = None

    def keep(self, latents: Tensor) -> None:
        """Hold what the request has given, unless the weights have changed since."""
        self.cache.keep(self, latents)

    def abandon(self) -> None:
        """The request gave nothing."""
        self.cache.abandon(self)


class ResultCache:
    """The entries of one engine; `weights()` is another number where they have changed.

    All methods may be called from any thread.
    """

    def __init__(
        self, options: ExactResults | ApproximateResults, weights: Callable[[], int]
    ) -> None:
        if not isinstance(options, ExactResults | ApproximateResults):
            raise TypeError(
                "Engine: results must be ExactResults or ApproximateResults of "
                f"l2c_rt.serving.results, got {type(options).__name__}"
            )
        self._options, self._weights = options, weights
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._nbytes = 0
        self._errors: tuple[float, float] = (0.0, 0.0)

    def look_up(self, asked: Asked, request: Request) -> Tensor | Pending:
        """Latents of the same or a close request, or what is to be told how this one ends.

        Raises TypeError or ValueError where the user's key is no embedding.
        """
        weights = self._weights()
        place, embedding = self._place(asked, request, weights)
        with self._lock:
            entry = self._find(place, embedding)
            if entry is None:
                self._counts["misses"] += 1
                return Pending(self, place, embedding, weights)
            self._entries.move_to_end(entry.key)
            entry.hits += 1
            if embedding is not None and entry.hits >= entry.due:
                # Others are served from it meanwhile.
                entry.due = math.inf
                self._counts["refreshes"] += 1
                return Pending(self, place, embedding, weights, entry)
            self._counts["hits"] += 1
        return entry.latents.to(request.latents.device, copy=True)

    def keep(self, pending: Pending, latents: Tensor) -> None:
        """Hold what a request has given, unless it confirms the entry that it checks."""
        if self._weights() != pending.weights:
            # Which of them it was computed with is not known.
            return self.abandon(pending)
        # A copy: the user may write to what the future gives.
        entry = Entry(pending.place, pending.embedding, latents.detach().to("cpu", copy=True))
        with self._lock:
            if pending.checked is not None and self._confirms(entry.latents, pending.checked):
                return
            self._remove(self._entries.get(entry.key))
            self._entries[entry.key] = entry
            self._nbytes += entry.nbytes
            while self._nbytes > self._options.max_bytes:
                self._remove(next(iter(self._entries.values())))
                self._counts["evicted"] += 1
        return None

    def abandon(self, pending: Pending) -> None:
        """The request gave nothing; the next one is computed in its place."""
        if (entry := pending.checked) is not None:
            with self._lock:
                entry.due = min(entry.due, entry.hits + 1)

    def stats(self) -> ResultStats:
        """What was served and found so far."""
        with self._lock:
            counts, (total, largest) = self._counts, self._errors
            checks = counts["confirmed"] + counts["replaced"]
            return ResultStats(
                counts["hits"], counts["misses"], counts["refreshes"], counts["replaced"],
                counts["evicted"], len(self._entries), self._nbytes,
                total / checks if checks else 0.0, largest,
            )  # fmt: skip

    def _place(
        self, asked: Asked, request: Request, weights: int
    ) -> tuple[Hashable, Tensor | None]:
        shared = (tuple(request.latents.shape), request.latents.dtype, request.cfg_scale, weights)
        if isinstance(self._options, ApproximateResults):
            embedding = _embedding(self._options.key(asked))
            return (*shared, len(embedding)), embedding
        noise = _digest({"": request.latents}) if asked.seed is None else asked.seed
        labels = "" if request.labels is None else _digest({"": request.labels})
        return (*shared, noise, labels, *map(_digest, request.inputs)), None

    def _find(self, place: Hashable, embedding: Tensor | None) -> Entry | None:
        if embedding is None:
            return self._entries.get(place)
        assert isinstance(self._options, ApproximateResults)
        near = [entry for entry in self._entries.values() if entry.place == place]
        if not near:
            return None
        others = torch.stack([entry.embedding for entry in near if entry.embedding is not None])
        distances = (others - embedding).norm(dim=1)
        nearest = int(distances.argmin())
        return near[nearest] if distances[nearest] <= self._options.tolerance else None

    def _confirms(self, latents: Tensor, entry: Entry) -> bool:
        assert isinstance(self._options, ApproximateResults)
        difference = (entry.latents.double() - latents.double()).norm()
        error = float(difference / latents.double().norm().clamp_min(1e-30))
        total, largest = self._errors
        self._errors = total + error, max(largest, error)
        good = error <= self._options.bound
        self._counts["confirmed" if good else "replaced"] += 1
        if not good:
            self._remove(entry)
        entry.interval *= self._options.growth
        entry.due = entry.hits + entry.interval
        return good

    def _remove(self, entry: Entry | None) -> None:
        if entry is not None and self._entries.pop(entry.key, None) is entry:
            self._nbytes -= entry.nbytes


def _embedding(value: object) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() != 1:
        what = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise TypeError(f"ApproximateResults: key must give a floating tensor [d], got {what:.80}")
    embedding = value.detach().to("cpu", torch.float32, copy=True)
    if not bool(torch.isfinite(embedding).all()):
        raise ValueError("ApproximateResults: key gave an embedding that is not finite")
    return embedding


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
