"""Router files that claim terabytes: refused in little memory."""

from __future__ import annotations

import tracemalloc
import zipfile

import pytest
from router_files import archive, dit_pickle, drawn_logits, saved, uvit_pickle

from l2c_rt.policies.router import Router

LOGITS = drawn_logits()
GOOD = archive(dit_pickle(LOGITS), LOGITS)


def bombs() -> dict[str, bytes]:
    tera = 1 << 40
    doubled = b"\x80\x02]" + b"q\x00(h\x00h\x00t" * 100 + b"."
    nested = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    return {
        "terabyte storage": archive(uvit_pickle(LOGITS, numel=tera), LOGITS),
        "terabyte bytearray": archive(
            b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + b"\x7f" * 6, LOGITS
        ),
        "terabyte text": archive(b"\x80\x02X\xff\xff\xff\xff", LOGITS),
        "doubled tuples": archive(doubled, LOGITS),
        "deep nesting": archive(nested, LOGITS),
        "large memo index": archive(b"\x80\x02Nr\xff\xff\xff\xff.", LOGITS),
        "compressed zeros": archive(bytes(1 << 26), LOGITS, zipfile.ZIP_DEFLATED),
        "terabyte directory": GOOD[:-10] + b"\xff\xff\xff\x7f" + GOOD[-6:],
    }


@pytest.mark.parametrize("name", bombs())
def test_a_file_that_claims_terabytes_takes_no_memory(tmp_path, name):
    path = saved(tmp_path, bombs()[name], "router.pth")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"router\.pth"):
            Router.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * path.stat().st_size + (1 << 20)
