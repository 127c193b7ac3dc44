"""The pickle reader: what it reads, and that nothing else is read, called or takes long."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
from router_files import dit_pickle, drawn_logits, integer, text

from l2c_rt.untrusted.torch_pickle import PickleReader, Storage, StoredTensor


def read(content: bytes) -> object:
    return PickleReader(content).read()


@pytest.mark.parametrize(
    "value",
    [None, True, 0, 255, 65_535, -7, 1 << 40, -(1 << 70), 0.5, "caf\u00e9", "x" * 300, (), [], {},
     (1,),     (1, 2), (1, 2, 3), (1, 2, 3, 4), [1, [2, {"a": (None,)}]], {"a": 1, 3: [False]}],
    ids=repr,
)  # fmt: skip
def test_plain_values_are_read_as_pickle_reads_them(value):
    content = pickle.dumps(value, protocol=2)
    assert read(content) == value
    assert type(read(content)) is type(value)


def test_an_ordered_dict_is_read_as_a_dict_without_its_state():
    table = OrderedDict(a=1, b=[2])
    table._metadata = OrderedDict(version=1)
    assert read(pickle.dumps(table, protocol=2)) == {"a": 1, "b": [2]}


def test_a_value_that_occurs_twice_is_one_object():
    shared = ["x"]
    first, second = read(pickle.dumps([shared, shared], protocol=2))
    assert first is second


def test_a_router_is_read_as_namespace_and_tensors():
    saved = read(dit_pickle(drawn_logits(2, 8)))
    assert saved["args"].values == {"num_sampling_steps": 2, "l1": 5e-6}
    tensor = StoredTensor(Storage("FloatStorage", "1", 8), 0, (8,), (1,))
    assert saved["routers"]["1.prob"] == tensor


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02", "ends at byte 2"),
        (b"\x80\x04N.", "protocol 4, wanted 2"),
        (b"\x80\x02}]K\x01s.", "list as a key"),
        (b"\x80\x02.", "takes a value at byte 3"),
        (b"\x80\x02t.", "takes a group at byte 3"),
        (b"\x80\x02}(Nu.", "a key without a value"),
        (b"\x80\x02h\x07.", "opcode b'h' at byte 2: KeyError"),
        (b"\x80\x02Na.", "takes a value"),
        (b"\x80\x02NNa.", "fills a NoneType as a list"),
        (b"\x80\x02(NQ.", "opcode b'Q' at byte 4: TypeError"),
        (b"\x80\x02" + b"N" * (4 << 20), "4194306 bytes, wanted 4194304 at most"),
        (b"\x80\x02" + b"N0" * 600_000, "opcode b'0' at byte 3 is not read here"),
        (b"\x80\x02" + b"N" * 1_000_001, "more than 1000000 opcodes"),
        (dit_pickle(drawn_logits(), offset=text("0")), "without storage, offset"),
        (dit_pickle(drawn_logits(), offset=b"J\xff\xff\xff\xff"), "without storage, offset"),
    ],
    ids=str,
)
def test_a_damaged_pickle_is_refused_by_what_is_wrong(content, message):
    with pytest.raises(ValueError, match=message):
        read(content)


def hostile_pickles(canary: Path) -> dict[str, bytes]:
    command = text(f"touch {canary}")
    code = text(f"open({str(canary)!r}, 'w')")
    return {
        "system": b"\x80\x02cposix\nsystem\n" + command + b"\x85R.",
        "eval": b"\x80\x02cbuiltins\neval\n" + code + b"\x85R.",
        "eval of python 2": b"\x80\x02c__builtin__\neval\n" + code + b"\x85R.",
        "object": b"\x80\x02cos\nsystem\n" + command + b"\x85\x81.",
        "old instance": b"(" + command + b"ios\nsystem\n.",
        "old object": b"\x80\x02(cos\nsystem\n" + command + b"o.",
        "stack global": b"\x80\x02" + text("os") + text("system") + b"\x93" + command + b"\x85R.",
        "state": b"\x80\x02cargparse\nNamespace\n)\x81" + command + b"b.",
        "call with arguments": b"\x80\x02cargparse\nNamespace\n" + command + b"\x85R.",
        "storage of another module": b"\x80\x02cos\nsystemStorage\n" + command + b"\x85R.",
        "dotted storage": b"\x80\x02ctorch\nos.systemStorage\n" + command + b"\x85R.",
        "extension": b"\x80\x02\x82\x01.",
    }


@pytest.mark.parametrize("name", hostile_pickles(Path()))
def test_a_hostile_pickle_is_refused_and_nothing_is_executed(tmp_path, name):
    content = hostile_pickles(tmp_path / "canary")[name]
    modules = ("posix", "builtins", "os", "torch")
    named = any(f"c{module}\n".encode() in content for module in modules)
    message = "which no router needs; refused, and nothing was executed" if named else "pickle"
    with pytest.raises(ValueError, match=message):
        read(content)
    assert not (tmp_path / "canary").exists()


def test_the_hostile_pickle_would_have_been_executed(tmp_path):
    pickle.loads(hostile_pickles(tmp_path / "canary")["system"])
    assert (tmp_path / "canary").exists()


def slow_pickles() -> dict[str, bytes]:
    colliding = b"".join(integer((1 << 61) - 1 << k % 900) + b"N" for k in range(10_000))
    wide = b"(" + b"K\x01" * 1_000 + b"tq\x00"
    tensors = (b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00h\x00h\x00tR") * 1_000
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    return {
        "int as a key": b"\x80\x02}(" + colliding + b"u.",
        "1000 dimensions": b"\x80\x02" + wide + tensors,
        # As a number of elements, tuples in tuples: their repr would recurse too deeply.
        "storage size is a tuple": b"\x80\x02" + storage + b")" + b"\x85" * 200_000 + b"tQ.",
    }


@pytest.mark.parametrize("message", slow_pickles())
def test_a_small_pickle_that_would_take_long_is_refused(message):
    with pytest.raises(ValueError, match=message):
        read(slow_pickles()[message])
