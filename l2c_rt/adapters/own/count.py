"""The multiply-accumulates that a probe counted, put into a program."""

from __future__ import annotations

from dataclasses import replace

from l2c_rt.adapters.own.describe import AFTER
from l2c_rt.adapters.own.probe import Probe
from l2c_rt.plan.program import BlockProgram, Branch, Node


def counted_program(program: BlockProgram, probe: Probe, rows: int) -> BlockProgram:
    """The program with the counts of one of the `rows` of a call in place of weights.

    A published program and one of nested shells have counts of their own, and stay as they are.
    """
    if any(branch.nested for branch in program.branches):
        return program
    total = sum(probe.linear_macs.values()) + sum(probe.attention_macs.values())
    if program.nodes[-1].name != AFTER or not total:
        return program
    nodes: list[Node] = []
    for node in program.nodes:
        if isinstance(node, Branch):
            linear = probe.linear_macs.get(node.name, 0) // rows
            attention = probe.attention_macs.get(node.name, 0) // rows
            nodes.append(replace(node, macs=linear, attention_macs=attention))
        elif node.name == AFTER:
            rest = probe.linear_macs.get("", 0) + probe.attention_macs.get("", 0)
            nodes.append(replace(node, macs=rest // rows))
        else:
            nodes.append(node)
    return replace(program, nodes=tuple(nodes))
