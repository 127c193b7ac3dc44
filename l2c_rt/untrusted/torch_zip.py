"""The records of a torch.save file: a zip archive whose records are stored, not compressed.

A reader of our own, because everything in these files is untrusted: it follows the central
directory only, allocates nothing that the file does not hold, and fails only by ValueError.
"""

from __future__ import annotations

import struct
import zlib

MAX_RECORDS = 100_000

END = struct.Struct("<4s4H2LH")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")


def stored_records(archive: bytes) -> dict[str, memoryview]:
    """{name: content} of an archive, as views of `archive`; checksums are verified.

    Raises: ValueError where the archive is no zip, is damaged, or has compressed records.
    """
    if archive[:4] != b"PK\x03\x04":
        raise ValueError(
            "not a zip archive; files of torch before 1.6 are no longer read, and a damaged or "
            "partly downloaded file looks the same: fetch it again, or save it with a newer torch"
        )
    count, size, at = _end_of_directory(archive)
    records: dict[str, memoryview] = {}
    end, left = at + size, len(archive)
    for _ in range(count):
        name, start, length, crc, at = _entry(archive, at, end)
        # Records that overlap could make a small file take forever to checksum.
        left -= length
        if name in records or left < 0:
            raise ValueError(f"zip record {name!r:.80} is there twice or overlaps others")
        records[name] = _content(archive, name, start, length, crc)
    return records


def _end_of_directory(archive: bytes) -> tuple[int, int, int]:
    where = archive.rfind(b"PK\x05\x06", max(0, len(archive) - (1 << 16) - END.size))
    if where < 0 or where + END.size > len(archive):
        raise ValueError("the zip archive ends before its directory; the file is truncated")
    _, disk, first_disk, here, count, size, at, _ = END.unpack_from(archive, where)
    if disk or first_disk or here != count or not 0 < count <= MAX_RECORDS:
        raise ValueError(f"the zip archive claims {count} records, wanted 1..{MAX_RECORDS}")
    if at + size > where:
        raise ValueError(f"the zip directory claims bytes {at}..{at + size} of {where}")
    return count, size, at


def _entry(archive: bytes, at: int, end: int) -> tuple[str, int, int, int, int]:
    if at + ENTRY.size > end:
        raise ValueError("the zip directory ends inside an entry")
    fields = ENTRY.unpack_from(archive, at)
    magic, _, _, flags, method, _, _, crc, packed, size, name_size, extra, comment = fields[:13]
    after = at + ENTRY.size + name_size + extra + comment
    if magic != b"PK\x01\x02" or after > end:
        raise ValueError("the zip directory is damaged")
    name = archive[at + ENTRY.size : at + ENTRY.size + name_size].decode("utf-8")
    if method or flags & 1 or packed != size:
        raise ValueError(
            f"zip record {name!r:.80} is compressed or encrypted, as torch never saves"
        )
    return name, fields[16], size, crc, after


def _content(archive: bytes, name: str, at: int, size: int, crc: int) -> memoryview:
    if at + LOCAL.size > len(archive) or archive[at : at + 4] != b"PK\x03\x04":
        raise ValueError(f"zip record {name!r:.80} points to byte {at}, where no record starts")
    *_, name_size, extra = LOCAL.unpack_from(archive, at)
    start = at + LOCAL.size + name_size + extra
    if start + size > len(archive):
        raise ValueError(f"zip record {name!r:.80} claims {size} bytes, beyond the end of the file")
    content = memoryview(archive)[start : start + size]
    if zlib.crc32(content) != crc:
        raise ValueError(f"zip record {name!r:.80} fails its checksum; the file is damaged")
    return content
