"""Protobuf by hand for the few messages of the hot path.

It halves their cost, which every member pays for every put. Tests compare each function with the
generated code, byte by byte.
"""

from dfs.varint import varint


def done_answer(revision: int, deleted: int = 0) -> bytes:
    """PutResponse, DeleteResponse, MakeDirResponse or SymlinkResponse: they start alike."""
    if deleted:
        return b"\x08" + varint(revision) + b"\x10" + varint(deleted)
    return b"\x08" + varint(revision)


def get_answer(record: bytes, data: bytes) -> bytes:
    """GetResponse."""
    head = b"\x0a" + varint(len(data)) if data else b""
    return b"".join((head, data, b"\x12", varint(len(record)), record))


def stat_answer(record: bytes) -> bytes:
    """StatResponse."""
    return b"\x0a" + varint(len(record)) + record


def list_item(key: str, record: bytes, data: bytes | None) -> bytes:
    """One of the items of a ListResponse or WatchResponse."""
    name = key.encode()
    parts = [b"\x0a", varint(len(name)), name, b"\x12", varint(len(record)), record]
    if data:
        parts += b"\x1a", varint(len(data)), data
    if data is not None:
        parts.append(b"\x20\x01")
    item = b"".join(parts)
    return b"".join((b"\x0a", varint(len(item)), item))


def list_answer(items: list[bytes], revision: int) -> bytes:
    """ListResponse, of encoded items."""
    return b"".join((*items, b"\x10", varint(revision)) if revision else items)
