"""What the tests of the store share: entries, a store to write through, a dump of everything."""

import hashlib

from dfs import commands
from dfs.errors import DfsError
from dfs.manifest import chunk_bytes_of
from dfs.proto.dfs_pb2 import (
    CopyRequest,
    CopyResponse,
    DeleteRequest,
    DeleteResponse,
    MakeDirRequest,
    Metadata,
    MoveRequest,
    MoveResponse,
    Operation,
    PutContentRequest,
    PutRequest,
    Record,
    SymlinkRequest,
    TransactionRequest,
    TransactionResponse,
)
from dfs.store import Store, change_of

OPERATIONS = {
    "put": PutRequest, "delete": DeleteRequest, "make_dir": MakeDirRequest,
    "symlink": SymlinkRequest, "move": MoveRequest, "copy": CopyRequest,
}  # fmt: skip
START_NS = 1_700_000_000_000_000_000


def entry(head, request, time_ns, node="node1", principal="me"):
    """A whole log entry, as the engine puts it together."""
    body = request.SerializeToString()
    return head(request, len(body), node, principal) + body + commands.stamp(time_ns)


def operation(name, *keys, **fields):
    """One of a transaction: `keys` are the key, or source and target; `size` of a content."""
    if name == "put_content":
        request = content(keys[0], fields.pop("size"))
        request.MergeFrom(PutContentRequest(**fields))
        return Operation(put_content=request)
    message = OPERATIONS[name]
    if name in ("move", "copy"):
        fields |= {"source": keys[0], "target": keys[1]}
    else:
        fields["key"] = keys[0]
    return Operation(**{name: message(**fields)})


def metadata(mode=None, mtime_ns=None):
    return None if mode is None and mtime_ns is None else Metadata(mode=mode, mtime_ns=mtime_ns)


def content(key, size, sha256=None):
    """A request to put a large content of so many zeros, or of that digest."""
    chunk_bytes = chunk_bytes_of(size)
    return PutContentRequest(
        key=key, size=size, sha256=sha256 or hashlib.sha256(bytes(size)).digest(),
        chunk_bytes=chunk_bytes, digests=b"d" * 32 * -(-size // chunk_bytes),
    )  # fmt: skip


def content_of(key, data):
    """A request to put these bytes as a large content."""
    chunk_bytes = chunk_bytes_of(len(data))
    parts = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    return PutContentRequest(
        key=key, size=len(data), sha256=hashlib.sha256(data).digest(), chunk_bytes=chunk_bytes,
        digests=b"".join(hashlib.sha256(part).digest() for part in parts),
    )  # fmt: skip


def _content_head(request, size, node, principal):
    """As the door makes it, which takes no content that is smaller than it need be."""
    return commands._head(commands.PUT_CONTENT, size, node, principal)


class Writer:
    """Applies one entry a call to a store and returns the changes; raises the refusals."""

    def __init__(self, kv):
        self.kv = kv
        self.store = Store(kv)
        self.now = START_NS

    @property
    def index(self):
        return self.store.applied

    def apply(self, payload, membership=b""):
        """(decoded answer bytes, changes) of one entry."""
        index = self.store.applied + 1
        [result], changes = self.store.apply(
            [(index, payload, True)], b"id%d" % index, membership
        )
        if isinstance(result, DfsError):
            assert changes == []
            raise result
        return result, [change_of(event) for event in changes]

    def send(self, head, request):
        self.now += 1_000
        return self.apply(entry(head, request, self.now))

    def put(self, key, data=b"", *, mode=None, mtime_ns=None, base=None, request_id=b""):
        """The revision."""
        request = PutRequest(
            key=key, data=data, metadata=metadata(mode, mtime_ns), base_revision=base,
            request_id=request_id,
        )  # fmt: skip
        return revision(self.send(commands.put_head, request)[0])

    def put_content(self, key, size, *, mode=None, base=None, request_id=b"", sha256=None):
        """The revision. The content of that size is some bytes that nobody has."""
        request = content(key, size, sha256)
        request.MergeFrom(PutContentRequest(metadata=metadata(mode), request_id=request_id))
        if base is not None:
            request.base_revision = base
        return revision(self.send(_content_head, request)[0])

    def put_bytes(self, key, data):
        """The SHA-256 of a large content, whose entry names its bytes."""
        request = content_of(key, data)
        self.send(_content_head, request)
        return request.sha256

    def delete(self, key, *, recursive=False, base=None, request_id=b""):
        """(revision, count of deleted keys)."""
        request = DeleteRequest(
            key=key, recursive=recursive, base_revision=base, request_id=request_id
        )
        answer = DeleteResponse.FromString(self.send(commands.delete_head, request)[0])
        return answer.revision, answer.deleted

    def mkdir(self, key, *, mode=None, mtime_ns=None, request_id=b""):
        """The revision."""
        request = MakeDirRequest(
            key=key, metadata=metadata(mode, mtime_ns), request_id=request_id
        )
        return revision(self.send(commands.make_dir_head, request)[0])

    def symlink(self, key, target, *, base=None, request_id=b""):
        """The revision."""
        request = SymlinkRequest(
            key=key, target=target, base_revision=base, request_id=request_id
        )
        return revision(self.send(commands.symlink_head, request)[0])

    def move(self, source, target, *, replace=False, base=None, request_id=b""):
        """(revision, count of moved keys)."""
        request = MoveRequest(
            source=source, target=target, replace=replace, base_revision=base,
            request_id=request_id,
        )  # fmt: skip
        answer = MoveResponse.FromString(self.send(commands.move_head, request)[0])
        return answer.revision, answer.moved

    def copy(
        self, source, target, *, recursive=False, replace=False, base=None, request_id=b""
    ):
        """(revision, count of keys made)."""
        request = CopyRequest(
            source=source, target=target, recursive=recursive, replace=replace,
            base_revision=base, request_id=request_id,
        )  # fmt: skip
        answer = CopyResponse.FromString(self.send(commands.copy_head, request)[0])
        return answer.revision, answer.copied

    def transaction(self, *operations, request_id=b""):
        """(revision, count of changes)."""
        request = TransactionRequest(operations=operations, request_id=request_id)
        answer = TransactionResponse.FromString(self.send(commands.transaction_head, request)[0])
        return answer.revision, answer.changes

    def set_floor(self, floor):
        self.now += 1_000
        return self.apply(commands.floor_entry(floor, "node1") + commands.stamp(self.now))

    def blank(self, membership=b""):
        return self.apply(b"", membership)

    def get(self, key, at=0):
        """The content."""
        with self.store.view() as view:
            return view.get(key, at)[1]

    def stat(self, key, at=0):
        """The decoded record."""
        with self.store.view() as view:
            return Record.FromString(view.stat(key, at))

    def keys(self, key="", *, recursive=True, after=""):
        with self.store.view() as view:
            return [name for name, _, _ in view.list(key, recursive, after)]

    def history(self, key="", before=0):
        """[(revision, sub, deleted, key)], newest first."""
        with self.store.view() as view:
            return [change[:4] for change in view.history(key, before)]


def revision(answer):
    """Of any answer to a write: its first field."""
    return DeleteResponse.FromString(answer).revision


def dump(kv):
    """Every stored byte."""
    return list(kv.scan(b"", b"\xff"))


def figures(store):
    """Everything that the store says of itself."""
    return (
        store.applied, store.log_id, store.membership, store.floor, store.state_hash, store.chain,
        store.keys, store.bytes, store.time_ns,
    )  # fmt: skip
