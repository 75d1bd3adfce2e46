"""Each call of the API as a value: which method, which bytes, how its answer is read.

Pure: nothing is sent here. Both clients build their calls with these functions, so that they
cannot differ.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ..errors import InvalidArgument, TooLarge
from ..limits import (
    PUT_MANY_OPERATIONS_MAX,
    REQUEST_ID_BYTES,
    TRANSACTION_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX,
)
from ..proto import dfs_pb2 as pb
from .values import Stat, stat_of

R = TypeVar("R")
Xattrs = Mapping[str, bytes]
"""Extended attributes by name, "user.…"."""
FILES = "/dfs.FileService/"
CLUSTER = "/dfs.ClusterService/"


class Message(Protocol):
    """Of protobuf's messages, what is needed here."""

    def SerializeToString(self) -> bytes:
        """The encoded message."""
        ...


class Encoded(NamedTuple):
    """A message that was encoded before."""

    encoded: bytes

    def SerializeToString(self) -> bytes:
        """The encoded message."""
        return self.encoded


class Call(NamedTuple, Generic[R]):
    """One unary call."""

    method: str
    request: Message
    parse: Callable[[bytes], Any]
    read: Callable[[Any], R]
    """The result, from the parsed answer."""
    revision: Callable[[Any], int] | None
    """The revision that the answer shows; the caller has seen it from then on."""
    write: bool
    repeatable: bool
    """Doing it twice is the same as once, so it may be repeated when its outcome is unknown."""
    request_id: bytes = b""


def encode(message: Message) -> bytes:
    """The bytes to send."""
    return message.SerializeToString()


def uuid7() -> bytes:
    """A UUID of version 7 (RFC 9562): milliseconds since 1970, then random bits."""
    head = time.time_ns() // 1_000_000
    tail = int.from_bytes(os.urandom(10), "big")
    number = head << 80 | tail
    number = number & ~(0xF << 76) & ~(0x3 << 62) | 7 << 76 | 2 << 62
    return number.to_bytes(16, "big")


def checked_id(given: bytes) -> bytes:
    """The id of a write, checked."""
    if len(given) != REQUEST_ID_BYTES:
        raise InvalidArgument(f"request_id has {len(given)} bytes, not {REQUEST_ID_BYTES}")
    return given


def text(key: str) -> str:
    """The key, if protobuf can carry it; all other rules are the node's to judge."""
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"key {key!r} is not valid Unicode: keys are UTF-8") from None
    return key


def content(data: bytes | bytearray | memoryview) -> bytes:
    """Bytes that stay as they are. Raises TypeError."""
    if isinstance(data, bytes | bytearray | memoryview):
        return data if type(data) is bytes else bytes(data)
    raise TypeError(f"data must be bytes, not {type(data).__name__}")


def metadata(
    mode: int | None, mtime_ns: int | None, uid: int | None, gid: int | None, xattrs: Xattrs | None
) -> pb.Metadata | None:
    """What a writer says of a key besides its content; None where that is nothing."""
    if mode is mtime_ns is uid is gid is None and not xattrs:
        return None
    described = pb.Metadata(mode=mode, mtime_ns=mtime_ns, uid=uid, gid=gid)
    if xattrs:
        ordered = sorted((name.encode(), value) for name, value in xattrs.items())
        described.xattrs.extend(pb.Xattr(name=n.decode(), value=value) for n, value in ordered)
    return described


def directory_metadata(
    mode: int | None, mtime_ns: int | None, uid: int | None, gid: int | None, xattrs: Xattrs | None
) -> pb.Metadata | None:
    """The same of a directory: one that exists keeps what is None; no `xattrs` leave it none."""
    described = metadata(mode, mtime_ns, uid, gid, xattrs)
    if xattrs is not None and not xattrs:
        described = described or pb.Metadata()
        described.no_xattrs = True
    return described


def consistency(local: bool) -> pb.Consistency:
    """The level that `local=` stands for."""
    return pb.LOCAL if local else pb.LINEARIZABLE


def revision_of(answer: Any) -> int:
    """Of the answer to a write."""
    return int(answer.revision)


def _record_revision(answer: Any) -> int:
    return int(answer.record.revision)


def _write(name: str, request: Any, parse: Callable[[bytes], Any]) -> Call[int]:
    return Call(
        FILES + name, request, parse, revision_of, revision_of, True, True, request.request_id
    )


def put(
    key: str, data: bytes | bytearray | memoryview, metadata: pb.Metadata | None,
    base_revision: int | None, request_id: bytes,
) -> Call[int]:
    """Store a file."""
    return _write("Put", pb.PutRequest(
        key=text(key), data=content(data), metadata=metadata,
        base_revision=base_revision, request_id=checked_id(request_id),
    ), pb.PutResponse.FromString)


def delete(
    key: str, recursive: bool, base_revision: int | None, request_id: bytes
) -> Call[int]:
    """Remove a key or a subtree."""
    return _write("Delete", pb.DeleteRequest(
        key=text(key), recursive=recursive, base_revision=base_revision,
        request_id=checked_id(request_id),
    ), pb.DeleteResponse.FromString)


def mkdir(
    key: str, metadata: pb.Metadata | None, request_id: bytes
) -> Call[int]:
    """Make a directory that stays."""
    return _write("MakeDir", pb.MakeDirRequest(
        key=text(key), metadata=metadata, request_id=checked_id(request_id)
    ), pb.MakeDirResponse.FromString)


def symlink(
    key: str, target: str, metadata: pb.Metadata | None, base_revision: int | None,
    request_id: bytes,
) -> Call[int]:
    """Store a symbolic link."""
    return _write("Symlink", pb.SymlinkRequest(
        key=text(key), target=text(target), metadata=metadata,
        base_revision=base_revision, request_id=checked_id(request_id),
    ), pb.SymlinkResponse.FromString)


def move(
    source: str, target: str, replace: bool, base_revision: int | None, request_id: bytes
) -> Call[int]:
    """Give a key, with all that is below it, another name."""
    return _write("Move", pb.MoveRequest(
        source=text(source), target=text(target), replace=replace, base_revision=base_revision,
        request_id=checked_id(request_id),
    ), pb.MoveResponse.FromString)


def copy(
    source: str, target: str, recursive: bool, replace: bool, base_revision: int | None,
    request_id: bytes,
) -> Call[int]:
    """Copy a key inside the tree."""
    return _write("Copy", pb.CopyRequest(
        source=text(source), target=text(target), recursive=recursive, replace=replace,
        base_revision=base_revision, request_id=checked_id(request_id),
    ), pb.CopyResponse.FromString)


def transaction(
    operations: int, only_puts: bool, encoded: bytes, request_id: bytes
) -> Call[int]:
    """Several changes as one: so many operations. Raises TooLarge before anything is sent."""
    check_transaction(operations, len(encoded))
    few_puts = only_puts and operations <= PUT_MANY_OPERATIONS_MAX
    return Call(
        FILES + ("PutMany" if few_puts else "Transaction"), Encoded(encoded),
        pb.TransactionResponse.FromString, revision_of, revision_of, True, True, request_id,
    )


def check_transaction(operations: int, size: int) -> None:
    """Of so many operations, and so many bytes. Raises TooLarge."""
    for found, limit, name, what in (
        (operations, TRANSACTION_OPERATIONS_MAX, "TRANSACTION_OPERATIONS_MAX", "changes"),
        (size, TRANSACTION_BYTES_MAX, "TRANSACTION_BYTES_MAX", "bytes"),
    ):
        if found > limit:
            raise TooLarge(
                f"the transaction has {found:,} {what}, the limit is {limit:,} ({name}): make"
                " several of it",
                limit=name,
            )


def put_content(request: pb.PutContentRequest) -> Call[int]:
    """Store a content that the node of this machine has been handed."""
    return _write("PutContent", request, pb.PutContentResponse.FromString)


def have_content(
    sha256: bytes, wait_ms: int, chunk: int | None, manifest: bool
) -> Call[pb.HaveContentResponse]:
    """Have the node get a content."""
    request = pb.HaveContentRequest(
        sha256=sha256, wait_ms=wait_ms, chunk=chunk, manifest=manifest
    )
    return Call(
        FILES + "HaveContent", request,
        pb.HaveContentResponse.FromString, _same, None, False, True,
    )


def keep_contents(contents: Sequence[bytes]) -> Call[set[bytes]]:
    """Ask a node which contents it has, so that they need not be uploaded."""
    return Call(
        FILES + "KeepContents", pb.KeepContentsRequest(sha256=contents),
        pb.KeepContentsResponse.FromString, _kept, None, False, True,
    )


def _kept(answer: pb.KeepContentsResponse) -> set[bytes]:
    return set(answer.sha256)


def mkdir_operation(key: str, metadata: pb.Metadata | None) -> pb.Operation:
    """Make a directory that stays, in a transaction."""
    return pb.Operation(
        make_dir=pb.MakeDirRequest(key=text(key), metadata=metadata)
    )


def symlink_operation(
    key: str, target: str, metadata: pb.Metadata | None, base_revision: int | None
) -> pb.Operation:
    """Store a symbolic link, in a transaction."""
    return pb.Operation(symlink=pb.SymlinkRequest(
        key=text(key), target=text(target), metadata=metadata,
        base_revision=base_revision,
    ))


def _data(answer: pb.GetResponse) -> bytes:
    return answer.data


def _read(answer: pb.GetResponse) -> tuple[bytes, Stat]:
    return answer.data, stat_of(answer.record)


def _stat(answer: pb.StatResponse) -> Stat:
    return stat_of(answer.record)


def _get_request(key: str, revision: int, local: bool, min_revision: int) -> pb.GetRequest:
    return pb.GetRequest(
        key=text(key), revision=revision, consistency=consistency(local), min_revision=min_revision
    )


def get(key: str, revision: int, local: bool, min_revision: int) -> Call[bytes]:
    """Read a file's content."""
    return Call(
        FILES + "Get", _get_request(key, revision, local, min_revision),
        pb.GetResponse.FromString, _data, _record_revision, False, True,
    )


def read(key: str, revision: int, local: bool, min_revision: int) -> Call[tuple[bytes, Stat]]:
    """Read a file's content and record."""
    return Call(
        FILES + "Get", _get_request(key, revision, local, min_revision),
        pb.GetResponse.FromString, _read, _record_revision, False, True,
    )


def stat(key: str, revision: int, local: bool, min_revision: int) -> Call[Stat]:
    """Read a record."""
    return Call(
        FILES + "Stat",
        pb.StatRequest(
            key=text(key), revision=revision, consistency=consistency(local),
            min_revision=min_revision,
        ),
        pb.StatResponse.FromString, _stat, _record_revision, False, True,
    )


# ---- cluster -------------------------------------------------------------------------------------
def _same(answer: Any) -> Any:
    return answer


def _none(_: Any) -> None:
    return None


def _leader(answer: pb.TransferLeaderResponse) -> str:
    return answer.leader


def status(local: bool) -> Call[pb.StatusResponse]:
    """What every member says of itself."""
    return Call(
        CLUSTER + "Status", pb.StatusRequest(local=local), pb.StatusResponse.FromString, _same,
        None, False, True,
    )


def members() -> Call[pb.MembersResponse]:
    """Who belongs to the cluster."""
    return Call(
        CLUSTER + "Members", pb.MembersRequest(), pb.MembersResponse.FromString, _same, None,
        False, True,
    )


class Terms(NamedTuple):
    """Of a change of the membership."""

    dry_run: bool
    """Only say what it would do."""
    if_config: int | None
    """Refuse it unless this is the configuration; None = any."""


def add_member(
    name: str, node_id: int, raft: str, grpc: str, promote: bool, terms: Terms
) -> Call[pb.AddMemberResponse]:
    """Add an empty node as learner."""
    return Call(
        CLUSTER + "AddMember",
        pb.AddMemberRequest(
            name=name, id=node_id, raft=raft, grpc=grpc, promote=promote, **terms._asdict()
        ),
        pb.AddMemberResponse.FromString, _same, None, True, True,
    )


def promote_member(name: str, node_id: int, terms: Terms) -> Call[pb.PromoteMemberResponse]:
    """Give a learner its vote."""
    return Call(
        CLUSTER + "PromoteMember",
        pb.PromoteMemberRequest(name=name, id=node_id, **terms._asdict()),
        pb.PromoteMemberResponse.FromString, _same, None, True, True,
    )


def remove_member(name: str, node_id: int, terms: Terms) -> Call[pb.RemoveMemberResponse]:
    """Remove a member."""
    return Call(
        CLUSTER + "RemoveMember",
        pb.RemoveMemberRequest(name=name, id=node_id, **terms._asdict()),
        pb.RemoveMemberResponse.FromString, _same, None, True, bool(node_id),
    )


def replace_member(
    name: str, node_id: int, raft: str, force: bool, terms: Terms
) -> Call[pb.ReplaceMemberResponse]:
    """Let an empty node take the place of a member."""
    return Call(
        CLUSTER + "ReplaceMember",
        pb.ReplaceMemberRequest(
            name=name, id=node_id, raft=raft, force=force, **terms._asdict()
        ),
        pb.ReplaceMemberResponse.FromString, _same, None, True, bool(node_id),
    )


def transfer_leader(name: str) -> Call[str]:
    """Let another voter lead."""
    return Call(
        CLUSTER + "TransferLeader", pb.TransferLeaderRequest(name=name),
        pb.TransferLeaderResponse.FromString, _leader, None, True, False,
    )


def report_agent(report: pb.AgentStatus) -> Call[None]:
    """Tell the node how its agent is."""
    return Call(
        CLUSTER + "ReportAgent", pb.ReportAgentRequest(status=report),
        pb.ReportAgentResponse.FromString, _none, None, False, True,
    )
