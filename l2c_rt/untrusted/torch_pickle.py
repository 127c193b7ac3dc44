"""The pickle inside a torch.save file, read as plain values: nothing is imported, nothing called.

Understands the 35 opcodes and the few names that a saved router holds and refuses all others;
`weights_pickle` takes more names. We do not call torch.load(weights_only=True): it allows
bytearray(n), of whatever n the file says, and versions of torch before the check believe any size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_PICKLE_BYTES = 4 << 20
MAX_OPCODES = 1_000_000
MAX_KEY = 1 << 31
MAX_DIMENSIONS = 8
NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "argparse Namespace"}


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle names."""

    text: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A record of the archive, as the pickle describes it: `numel` elements of type `kind`."""

    kind: str
    record: str
    numel: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A strided view of a storage, as the pickle describes it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Namespace:
    """An argparse.Namespace, as its attributes."""

    values: dict[str, Any]


MARK = object()


class PickleReader:
    """One pass over a pickle: position, stack and memo."""

    __slots__ = ("at", "memo", "stack", "text")

    def __init__(self, text: bytes) -> None:
        if len(text) > MAX_PICKLE_BYTES:
            raise ValueError(f"the pickle has {len(text)} bytes, wanted {MAX_PICKLE_BYTES} at most")
        self.text, self.at = text, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        """The value that the pickle describes; ValueError where it is damaged or does more."""
        for _ in range(MAX_OPCODES):
            start, opcode = self.at, self.take(1)
            if opcode == b".":
                return self.pop()
            if opcode not in OPCODES:
                raise ValueError(f"pickle opcode {opcode!r} at byte {start} is not read here")
            try:
                OPCODES[opcode](self)
            except (TypeError, KeyError) as error:
                raise ValueError(f"pickle opcode {opcode!r} at byte {start}: {error!r}") from None
        raise ValueError(f"the pickle has more than {MAX_OPCODES} opcodes")

    def take(self, size: int) -> bytes:
        end = self.at + size
        if size < 0 or end > len(self.text):
            raise ValueError(f"the pickle ends at byte {len(self.text)}, inside an opcode")
        self.at, start = end, self.at
        return self.text[start:end]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        end = self.text.find(b"\n", self.at)
        return self.take(end - self.at + 1 if end >= 0 else len(self.text))[:-1].decode("ascii")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise ValueError(f"the pickle takes a value at byte {self.at} that it never pushed")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.push(value)
        return value

    def pop_to_mark(self) -> list[Any]:
        for k in range(len(self.stack) - 1, -1, -1):
            if self.stack[k] is MARK:
                values = self.stack[k + 1 :]
                del self.stack[k:]
                return values
        raise ValueError(f"the pickle takes a group at byte {self.at} that it never began")

    def last(self, kind: type) -> Any:
        value = self.top()
        if type(value) is kind:
            return value
        raise ValueError(f"the pickle fills a {type(value).__name__} as a {kind.__name__}")

    def name(self, text: str) -> Any:
        """What stands for the class or function `text`, "module name"."""
        storage = text.startswith("torch ") and text.endswith("Storage") and text.count(".") == 0
        if text not in NAMES and not storage:
            raise ValueError(
                f"the pickle names {text.replace(' ', '.')!r:.80}, which no router needs; refused, "
                "and nothing was executed. Only load routers whose origin you know"
            )
        return Name(text)

    def call(self, function: Any, arguments: Any) -> Any:
        """What stands for the result of a call."""
        text = function.text if isinstance(function, Name) else type(function).__name__
        if text == "collections OrderedDict" and arguments == ():
            return {}
        if text == "argparse Namespace" and arguments == ():
            return Namespace({})
        if text == "torch._utils _rebuild_tensor_v2" and isinstance(arguments, tuple):
            return _tensor(*arguments[:4])
        raise ValueError(f"the pickle calls {text!r:.80} in a way that no router needs")

    def build(self, target: Any, state: Any) -> Any:
        """`target` with its state set."""
        if isinstance(target, Namespace) and type(state) is dict:
            return Namespace(state)
        if type(target) is not dict:
            raise ValueError(f"the pickle changes the state of a {type(target).__name__}")
        # An OrderedDict's state is a state dict's _metadata (module versions): not needed.
        return target

    def set_items(self, items: list[Any]) -> None:
        """Fill the dict on top of the stack from keys and values in turn."""
        if len(items) % 2:
            raise ValueError("the pickle sets a key without a value")
        target = self.last(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Larger ints can be chosen to collide in the dict, which makes filling it quadratic.
            if type(key) is not str and not (type(key) is int and 0 <= key < MAX_KEY):
                raise ValueError(f"the pickle uses a {type(key).__name__} as a key")
            target[key] = value

    def extend(self, values: list[Any]) -> None:
        """Append to the list on top of the stack."""
        self.last(list).extend(values)


def _put(reader: PickleReader, index: int) -> None:
    reader.memo[index] = reader.top()


def _tuple(reader: PickleReader, size: int) -> None:
    values = [reader.pop() for _ in range(size)]
    reader.push(tuple(reversed(values)))


def _call(reader: PickleReader) -> None:
    arguments = reader.pop()
    reader.push(reader.call(reader.pop(), arguments))


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    numbers = (offset, *shape[:MAX_DIMENSIONS], *stride[:MAX_DIMENSIONS])
    if max(len(shape), len(stride)) > MAX_DIMENSIONS:
        raise ValueError(f"the pickle describes a tensor of {len(shape)} dimensions")
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("the pickle describes a tensor without storage, offset, shape and stride")
    return StoredTensor(storage, offset, tuple(shape), tuple(stride))


def _build(reader: PickleReader) -> None:
    state = reader.pop()
    reader.push(reader.build(reader.pop(), state))


def _storage(reader: PickleReader) -> None:
    kind, name, record, _device, numel = reader.pop()
    if kind != "storage" or not isinstance(name, Name) or type(record) is not str:
        raise ValueError("the pickle refers to something that is not a storage")
    if type(numel) is not int or numel < 0:
        # The type only: tuples can be nested too deeply to be printed.
        raise ValueError(f"the pickle's storage size is a {type(numel).__name__} or negative")
    reader.push(Storage(name.text.removeprefix("torch "), record, numel))


def _protocol(reader: PickleReader) -> None:
    version = reader.number("<B")
    if version != 2:
        raise ValueError(f"pickle protocol {version}, wanted 2, as torch.save writes by default")


OPCODES: dict[bytes, Callable[[PickleReader], None]] = {
    b"\x80": _protocol,
    b"(": lambda r: r.push(MARK),
    b"}": lambda r: r.push({}),
    b"]": lambda r: r.push([]),
    b")": lambda r: r.push(()),
    b"N": lambda r: r.push(None),
    b"\x88": lambda r: r.push(True),
    b"\x89": lambda r: r.push(False),
    b"K": lambda r: r.push(r.number("<B")),
    b"M": lambda r: r.push(r.number("<H")),
    b"J": lambda r: r.push(r.number("<i")),
    b"\x8a": lambda r: r.push(int.from_bytes(r.take(r.number("<B")), "little", signed=True)),
    b"G": lambda r: r.push(r.number(">d")),
    b"X": lambda r: r.push(r.take(r.number("<I")).decode("utf-8")),
    b"q": lambda r: _put(r, r.number("<B")),
    b"r": lambda r: _put(r, r.number("<I")),
    b"h": lambda r: r.push(r.memo[r.number("<B")]),
    b"j": lambda r: r.push(r.memo[r.number("<I")]),
    b"t": lambda r: r.push(tuple(r.pop_to_mark())),
    b"\x85": lambda r: _tuple(r, 1),
    b"\x86": lambda r: _tuple(r, 2),
    b"\x87": lambda r: _tuple(r, 3),
    b"u": lambda r: r.set_items(r.pop_to_mark()),
    b"s": lambda r: r.set_items([r.pop(), r.pop()][::-1]),
    b"a": lambda r: r.extend([r.pop()]),
    b"e": lambda r: r.extend(r.pop_to_mark()),
    b"c": lambda r: r.push(r.name(f"{r.line()} {r.line()}")),
    b"R": _call,
    b"\x81": _call,
    b"b": _build,
    b"Q": _storage,
}
