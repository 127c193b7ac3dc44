"""Router files of the published formats, good and bad, for the tests of the readers.

The archive and the pickle are written by hand, so that a test can say anything in them and needs
no torch; test_router.py checks that torch.save writes, and torch.load reads, the same format.
"""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np

NAMESPACE = (
    b"cargparse\nNamespace\n)\x81}(X\x12\x00\x00\x00num_sampling_steps%bX\x02\x00\x00\x00l1G"
    + struct.pack(">d", 5e-6)
    + b"ub"
)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def tensor(
    key: str,
    size: int,
    numel: int | None = None,
    kind: str = "Float",
    offset: bytes = b"K\x00",
) -> bytes:
    """The opcodes of a one-dimensional tensor over the whole record `key`."""
    storage = b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(key) + text("cpu")
    storage += integer(size if numel is None else numel) + b"tQ"
    layout = offset + integer(size) + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + layout + b"tR"


def rows(logits: np.ndarray, **changes: object) -> bytes:
    """The opcodes of {"0.prob": tensor, ...}; `changes` go to the first row's tensor."""
    items = b"".join(
        text(f"{k}.prob") + tensor(str(k), len(row), **(changes if k == 0 else {}))  # type: ignore[arg-type]
        for k, row in enumerate(logits)
    )
    return b"}(" + items + b"u"


def dit_pickle(logits: np.ndarray, steps: int | None = None, **changes: object) -> bytes:
    args = NAMESPACE.replace(b"%b", integer(len(logits) if steps is None else steps))
    content = text("routers") + rows(logits, **changes) + text("opt") + b"}" + text("args") + args
    return b"\x80\x02}(" + content + b"u."


def uvit_pickle(logits: np.ndarray, **changes: object) -> bytes:
    return b"\x80\x02" + rows(logits, **changes) + b"."


def archive(pickle: bytes, logits: np.ndarray, method: int = zipfile.ZIP_STORED) -> bytes:
    """A torch.save archive with this pickle and one float32 record per row."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as file:
        file.writestr("router/data.pkl", pickle)
        file.writestr("router/byteorder", "little")
        for k, row in enumerate(logits):
            file.writestr(f"router/data/{k}", row.astype("<f4").tobytes())
        file.writestr("router/version", "3\n")
    return content.getvalue()


def drawn_logits(steps: int = 10, branches: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (steps, branches)).astype(np.float32)


def saved(folder: Path, content: bytes, name: str = "router.pt") -> Path:
    """The path of a new file with this content."""
    (folder / name).write_bytes(content)
    return folder / name
