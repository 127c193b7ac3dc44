"""What runs that choose tokens launch: kernels and bytes as `cost` counts them, memory written
before it is read."""

from __future__ import annotations

from typing import Any

import pytest
from launch_effects import Memory, effect, moved_bytes
from launch_recorder import Entry, Operator, span
from recorded_runs import TOKEN_METHODS, TOKEN_RUNS, WAYS, Record, recorded
from uncounted_bytes import left_out

from l2c_rt.plan.lowering import RunTokens, Score, Sum

token_methods = pytest.mark.parametrize("name", TOKEN_METHODS)


@token_methods
def test_an_evaluation_launches_the_kernels_that_cost_counts(name: str) -> None:
    record = recorded(name)
    for number, counted in enumerate(record.compiled.cost.cached):
        assert len(record.evaluation(number)) == counted.kernels
    rows = range(len(record.compiled.plan.steps))
    assert record.shape_program.nodes == sum(len(record.variant(row)) for row in rows)
    launches = [launch for number in record.evaluations for launch in record.lowered(number)]
    assert {RunTokens, Score} <= {type(launch) for launch in launches}


@token_methods
def test_pytorch_gathers_and_scatters_rows_and_takes_norms_and_nothing_else(name: str) -> None:
    record = recorded(name)
    for number in record.evaluations:
        got = [e.name for e in record.evaluation(number) if isinstance(e, Operator)]
        expected: list[str] = []
        for launch in record.lowered(number):
            if isinstance(launch, RunTokens):
                expected += ["aten.gather.out", "aten.scatter_.src"]
            elif isinstance(launch, Score) and launch.score == "kv-norm":
                expected.append("aten.linalg_vector_norm.out")
        assert got == expected


def test_kernels_move_the_bytes_that_cost_counts_and_numbers_per_token_beside() -> None:
    record = recorded("dit duca")
    out, batch = left_out(record), record.shape_program.buffers.shape.batch
    for number in record.evaluations:
        told = sum(bytes_of(entry) for entry in record.evaluation(number))
        counted = record.compiled.cost.cached[number].moved_bytes(batch=batch, itemsize=2)
        embeds = any(hasattr(la, "target") for la in record.lowered(number))
        more = out.latents(3 if embeds else 2) + embeds * out.positions() - out.variance()
        if not embeds:
            # Nothing reads the embedding where the stream is put back; `cost` counts its weights.
            more -= 2 * record.compiled.bound_model.program.fixed_of["embed"].weights
        # A sum alone is told to read shift and scale too.
        alone = [la for la in record.lowered(number) if isinstance(la, Sum) and not la.branch]
        more += 4 * batch * out.width * len(alone)
        numbers = sum(numbers_of(launch, batch, out.tokens) for launch in record.lowered(number))
        assert told - counted == more + numbers


def bytes_of(entry: Entry) -> int:
    """Of an operator: the rows that it moves."""
    if not isinstance(entry, Operator):
        return moved_bytes(entry)
    rows = entry.writes[0][1] if "gather" in entry.name else entry.reads[-1][1]
    return 2 * rows


def numbers_of(launch: Any, batch: int, tokens: int) -> int:
    """Scores, stamps, sums by head, and the chosen tokens: four heads."""
    if isinstance(launch, Score):
        # Logarithms written and read, sums written and read, a score and a stamp written.
        return 4 * batch * tokens * (2 * 4 + 2 * 4 + 2)
    if isinstance(launch, RunTokens):
        return batch * (2 * 4 * tokens + (4 + 8) * launch.tokens)
    return 0


@pytest.mark.parametrize(("name", "way"), TOKEN_RUNS)
def test_every_byte_is_written_before_it_is_read(name: str, way: str) -> None:
    record = recorded(name, **WAYS[way])
    p, b = record.shape_program, record.shape_program.buffers
    assert p.tokens is not None
    kept = [b.memory.all_slots, b.latents, b.anchor, b.counter, *p.tokens.kept]
    kept += [stream for name, stream in b.streams.items() if name == "x-kept"]
    passing = [b.h, b.qkv, b.mixed, b.hidden, *p.tokens.passing]
    passing += [stream for name, stream in b.streams.items() if name != "x-kept"]
    memory = Memory([*kept, *passing])
    for given in (b.latents, b.counter):
        memory.write(span(given))
    for number in record.evaluations:
        for buffer in passing:
            memory.poison(span(buffer))
        for entry in record.evaluation(number):
            made = effect(entry)
            for at in made.reads:
                assert not memory.has(at) or memory.holds(at), entry
            for at in made.writes:
                if memory.has(at):
                    memory.write(at)


def records() -> list[Record]:
    return [recorded(name) for name in TOKEN_METHODS]


def test_what_graphs_hold_of_a_choice_lies_in_static_buffers() -> None:
    for record in records():
        p = record.shape_program
        assert p.tokens is not None
        static = Memory([*p.tokens.kept, *p.tokens.passing, *p.buffers.memory.slots,
                         *p.buffers.streams.values()])  # fmt: skip
        for number in record.evaluations:
            for entry in record.evaluation(number):
                if isinstance(entry, Operator):
                    assert all(static.has(at) for at in entry.writes)
