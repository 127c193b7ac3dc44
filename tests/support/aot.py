"""Compiled kernels read back as machine code, with the tools that ship inside triton."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import triton

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class ReadBack:
    """What the assembler made of a kernel: opcodes with their modifiers, in their order."""

    registers: int
    stack: int
    sequence: tuple[str, ...]

    @property
    def opcodes(self) -> Counter[str]:
        return Counter(self.sequence)

    def count(self, pattern: str) -> int:
        """Instructions whose opcode matches the regular expression from its start."""
        return sum(n for op, n in self.opcodes.items() if re.match(pattern, op))

    @property
    def spills(self) -> int:
        """Bytes of stack, and loads and stores of local memory."""
        return self.stack + self.count(r"LDL|STL")

    def widths(self, pattern: str) -> Counter[int]:
        """Bytes per access of the global loads or stores that match."""
        widths: Counter[int] = Counter()
        for op, n in self.opcodes.items():
            if re.match(pattern, op):
                widths[_bytes(op)] += n
        return widths


@cache
def read_back(cubin: bytes) -> ReadBack:
    """Disassemble one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _printed("cuobjdump", "--dump-resource-usage", file.name)
        # Without its analysis of the data flow, which takes a third of its time.
        code = _printed("nvdisasm", "--print-code", "--no-dataflow", file.name)
    numbers = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert numbers, usage
    sequence = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", code)
    assert sequence, code[:500]
    return ReadBack(int(numbers[1]), int(numbers[2]), tuple(sequence))


def _printed(tool: str, *arguments: str) -> str:
    command = [str(_TOOLS / tool), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _bytes(opcode: str) -> int:
    for modifier, width in ((".128", 16), (".64", 8), (".U16", 2), (".S16", 2), (".U8", 1)):
        if modifier in opcode:
            return width
    return 4
