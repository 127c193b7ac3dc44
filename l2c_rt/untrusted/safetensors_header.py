"""The header of a safetensors file that is held as bytes."""

from __future__ import annotations

from l2c_rt.untrusted.bounded_read import parse_json


def safetensors_header(content: bytes) -> dict[str, str]:
    """The metadata {name: text} of a file that the library has loaded, and so verified.

    The library reads metadata by `safe_open` only, which maps the file: one that shrinks
    meanwhile ends the process by SIGBUS, and one that changes has another header than the bytes
    loaded before. These two lines are all that its format needs.
    """
    size = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = parse_json(content[8 : 8 + size]).get("__metadata__") or {}
    return metadata
