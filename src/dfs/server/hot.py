"""The calls that the engine's own port hands over: what their bodies mean.

The table of methods is shared by both hosts: the engine's port calls these functions on the hot
thread, the grpcio server reaches them through the node. So both give the same answers and refusals.
Streams that are no single message are made by `files`, for both hosts.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from .. import commands, status
from .._engine import changed_gets
from ..errors import DfsError
from ..limits import PLAIN_PUT_BYTES_MAX, SMALL_VALUE_BYTES_MAX
from ..node import Behind, Call, Codec, Failure, Refused, unexpected
from ..paths import check_key
from ..proto.dfs_pb2 import (
    LOCAL,
    CopyRequest,
    DeleteRequest,
    GetRequest,
    ListRequest,
    MakeDirRequest,
    MoveRequest,
    PutContentRequest,
    PutRequest,
    Record,
    StatRequest,
    SymlinkRequest,
    TransactionRequest,
)
from ..store import Store
from .encode import watch_answer

M = TypeVar("M", bound=Message)


class Method(NamedTuple):
    """One hot method."""

    name: str
    number: int
    """How it is called across the Rust boundary."""
    reads: bool
    """Its calls come behind a read barrier."""
    streams: bool = False
    """They are answered by any number of messages."""
    large: bool = False
    """One of its entries may be so much work that a node has no two of them under way. So they come
    by the grpcio host alone, which lets them wait."""


PUT: Final = Method("Put", 1, False)
GET: Final = Method("Get", 2, True)
STAT: Final = Method("Stat", 3, True)
DELETE: Final = Method("Delete", 4, False)
MAKE_DIR: Final = Method("MakeDir", 5, False)
SYMLINK: Final = Method("Symlink", 6, False)
LIST: Final = Method("List", 7, True, streams=True)
WATCH: Final = Method("Watch", 8, False, streams=True)
HISTORY: Final = Method("History", 9, True, streams=True)
MOVE: Final = Method("Move", 20, False, large=True)
COPY: Final = Method("Copy", 21, False, large=True)
TRANSACTION: Final = Method("Transaction", 22, False, large=True)
"""As PUT_CONTENT, where it names contents."""
PUT_MANY: Final = Method("PutMany", 11, False)
"""A Transaction that is not large."""
PUT_CONTENT: Final = Method("PutContent", 10, False)
"""Begins elsewhere, when the content is on a majority; only the entry is made here."""
METHODS: Final = (
    PUT, GET, STAT, DELETE, MAKE_DIR, SYMLINK, LIST, WATCH, HISTORY, PUT_MANY, MOVE, COPY,
    TRANSACTION,
)  # fmt: skip
NOBODY: Final = ""
"""The principal of all calls: nobody is authenticated yet."""
SERVICE: Final = "dfs.FileService"


def routes() -> dict[str, tuple[int, bool, bool]]:
    """The engine's `routes`: path → (method number, is a read, answers by a stream)."""
    return {f"/{SERVICE}/{m.name}": (m.number, m.reads, m.streams) for m in METHODS if not m.large}


def parse(kind: type[M], body: bytes) -> M:
    """Decodes a request. Raises InvalidArgument when it is none."""
    try:
        return kind.FromString(body)
    except DecodeError:
        raise malformed(kind) from None


def malformed(kind: type[Message]) -> DfsError:
    """What the sender of bytes that are no message is told."""
    error = status.engine_error("malformed")
    return type(error)(f"{error.text}: {kind.__name__}", **error.metadata)


def local(body: bytes) -> bool:
    """Whether a read asks for what is applied here. Get and Stat agree in the field."""
    try:
        return GetRequest.FromString(body).consistency == LOCAL
    except DecodeError:
        return True  # the handler says what is wrong, which needs no leader


def failure_of(error: Exception) -> Failure:
    """What the caller is told when a method has raised this."""
    if isinstance(error, Refused):
        return error.failure
    if isinstance(error, TimeoutError):
        error = status.engine_error("deadline")
    if not isinstance(error, DfsError):  # the caller gets an id, the log the rest
        error = unexpected(error)
    return status.failure(error)


def codec(store: Store, node: str) -> Codec:
    """What the node named `node` needs to know of requests, answers and entries."""
    return Codec(
        writes=_writes(node),
        plain=(PUT.number, commands.writer_fields(node, NOBODY), PLAIN_PUT_BYTES_MAX),
        reads=_reads(store),
        streams=_streams(store),
        together=_together(store),
        changed=lambda events: changed_gets(events, GET.number, SMALL_VALUE_BYTES_MAX),
        frees_space=frozenset({DELETE.number}),
        failure=status.failure,
        update=watch_answer,
        floor_entry=lambda revision: commands.floor_entry(revision, node),
        record_time=lambda record: Record.FromString(record).time_ns,
    )


def _writes(node: str) -> dict[int, Callable[[bytes], bytes]]:
    principal = NOBODY

    def put(body: bytes) -> bytes:
        head = commands.plain_put_head(body, node, principal)
        if head is not None:
            return head
        return commands.put_head(parse(PutRequest, body), len(body), node, principal)

    def delete(body: bytes) -> bytes:
        return commands.delete_head(parse(DeleteRequest, body), len(body), node, principal)

    def make_dir(body: bytes) -> bytes:
        return commands.make_dir_head(parse(MakeDirRequest, body), len(body), node, principal)

    def symlink(body: bytes) -> bytes:
        return commands.symlink_head(parse(SymlinkRequest, body), len(body), node, principal)

    def put_content(body: bytes) -> bytes:
        request = parse(PutContentRequest, body)
        return commands.put_content_head(request, len(body), node, principal)

    def move(body: bytes) -> bytes:
        return commands.move_head(parse(MoveRequest, body), len(body), node, principal)

    def copy(body: bytes) -> bytes:
        return commands.copy_head(parse(CopyRequest, body), len(body), node, principal)

    def transaction(body: bytes, only_puts: bool = False) -> bytes:
        head = commands.regular_transaction_head(body, node, principal)
        if head is not None:
            return head
        request = parse(TransactionRequest, body)
        if only_puts:
            commands.check_puts(request)
        return commands.transaction_head(request, len(body), node, principal)

    def put_many(body: bytes) -> bytes:
        commands.check_few(body)
        return transaction(body, only_puts=True)

    return {
        PUT_CONTENT.number: put_content,
        PUT.number: put,
        DELETE.number: delete,
        MAKE_DIR.number: make_dir,
        SYMLINK.number: symlink,
        PUT_MANY.number: put_many,
        MOVE.number: move,
        COPY.number: copy,
        TRANSACTION.number: transaction,
    }


def _reads(store: Store) -> dict[int, Callable[[bytes], bytes]]:
    def get(body: bytes) -> bytes:
        request = parse(GetRequest, body)
        check_key(request.key)
        if request.min_revision > store.applied:
            raise Behind(request.min_revision)
        return store.get_answer(request.key, request.revision)

    def stat(body: bytes) -> bytes:
        request = parse(StatRequest, body)
        check_key(request.key)
        if request.min_revision > store.applied:
            raise Behind(request.min_revision)
        return store.stat_answer(request.key, request.revision)

    return {GET.number: get, STAT.number: stat}


def list_answer(store: Store, body: bytes) -> bytes | None:
    """The whole answer to a ListRequest, if it is one small message; None when it takes longer than
    others should wait. Whoever brings it has waited for what it asks for (`min_revision`), as for
    all streams. Raises DfsError. Hot thread only."""
    request = parse(ListRequest, body)
    if request.key:
        check_key(request.key)
    if request.HasField("as_of"):
        return None
    return store.list_answer(
        request.key, request.recursive, request.after, request.limit, request.data_bytes_max
    )


def _streams(store: Store) -> dict[int, Callable[[bytes], bytes | None]]:
    def small_list(body: bytes) -> bytes | None:
        return list_answer(store, body)

    def made_elsewhere(_body: bytes) -> None:
        return None

    made = {method.number: made_elsewhere for method in METHODS if method.streams}
    return {**made, LIST.number: small_list}


def _together(store: Store) -> Callable[[list[Call]], list[tuple[int, bytes]]]:
    wanted = GET.number

    def together(calls: list[Call]) -> list[tuple[int, bytes]]:
        gets = [(call_id, body) for call_id, method, body in calls if method == wanted]
        return store.get_answers(gets) if gets else gets

    return together
