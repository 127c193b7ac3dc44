"""Every file is written by atomic_write and opened by bounded_read, and by nothing else.

Libraries that write pictures and arrays are given a buffer.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "l2c_rt"

WRITERS = {"write_text", "write_bytes", "save_file", "savez", "savez_compressed", "savetxt",
           "tofile", "dump", "copyfile", "copy2", "os.rename", "os.replace"}  # fmt: skip

INTO_BUFFERS = {"savefig", "np.save", "torch.save"}
READERS = {"read_text", "read_bytes", "safe_open", "load_file", "fromfile", "memmap", "genfromtxt",
           "loadtxt", "torch.load", "np.load"}  # fmt: skip

WRITE_ALLOWED = {"untrusted/atomic_write.py"}
APPEND_ALLOWED = {"learning/log.py"}
"""A log grows line by line; its head is written whole."""

READ_ALLOWED = {
    "untrusted/bounded_read.py",
    # What the package itself or the system brings.
    "presets/__init__.py", "backends/cuda/tuning/machine.py", "measure/machine.py",
}  # fmt: skip


def calls(text: str) -> Iterator[tuple[str, ast.Call]]:
    """(name, call): "save" and, where it is of a plain name, "torch.save"."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id, node
            elif isinstance(node.func, ast.Attribute):
                yield node.func.attr, node
                if isinstance(node.func.value, ast.Name):
                    yield f"{node.func.value.id}.{node.func.attr}", node


def mode(call: ast.Call, at: int) -> str:
    """The mode that a call of open gives, "r" where it gives none."""
    given = [k.value for k in call.keywords if k.arg == "mode"] + call.args[at : at + 1]
    return given[0].value if given and isinstance(given[0], ast.Constant) else "r"


def faults(text: str, name: str) -> list[str]:
    """What a module does with files that it should leave to others."""
    found = []
    for called, call in calls(text):
        first = call.args[0] if call.args else None
        into_buffer = isinstance(first, ast.Name) and first.id == "buffer"
        image = called == "save" and any(k.arg == "format" for k in call.keywords)
        if called in WRITERS:
            found += [f"writes by {called}"] * (name not in WRITE_ALLOWED)
        elif (called in INTO_BUFFERS or image) and not into_buffer:
            found.append(f"{called} without a buffer")
        elif called in READERS and name not in READ_ALLOWED:
            found.append(f"reads by {called}")
        elif called in ("open", "fdopen") and not name.startswith("untrusted/"):
            opened = mode(call, 1 if isinstance(call.func, ast.Name) or called == "fdopen" else 0)
            if opened != "a" or name not in APPEND_ALLOWED:
                found.append(f"opens {opened!r}")
    return found


def test_modules_leave_files_to_the_two_that_know_how() -> None:
    paths = [path for path in ROOT.rglob("*.py") if ROOT / "kernels" not in path.parents]
    names = {path.relative_to(ROOT).as_posix(): path for path in paths}
    found = {name: faults(path.read_text(), name) for name, path in names.items()}
    assert {name: texts for name, texts in found.items() if texts} == {}
    assert found.keys() > WRITE_ALLOWED | APPEND_ALLOWED | READ_ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "Path(p).write_text(x)", "p.write_bytes(x)", "open(p, 'w')", "p.open(mode='wb')",
        "figure.savefig(path, dpi=1)", "save_file(t, p)", "torch.save(t, p)", "np.save(p, a)",
        "image.save(p, format='PNG')", "json.dump(x, f)", "os.replace(a, b)", "torch.load(p)",
        "safe_open(p, 'pt')", "p.read_text()", "open(p)", "os.fdopen(h, 'wb')", "open(p, 'a')",
    ],
)  # fmt: skip
def test_the_rule_sees_every_way_round_it(line: str) -> None:
    assert faults(line, "some/module.py")


def test_the_rule_lets_buffers_and_texts_pass() -> None:
    for line in ("np.save(buffer, a)", "image.save(buffer, format='PNG')", "write_whole(p, x)",
                 "figure.savefig(buffer)", "text.replace('a', 'b')", "router.save(p)"):  # fmt: skip
        assert not faults(line, "some/module.py")
