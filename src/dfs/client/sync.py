"""The blocking client."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

import grpc

from ..errors import DfsError, Unimplemented
from ..limits import CLIENT_LEARN_MS_MAX
from ..proto import dfs_pb2 as pb
from . import calls, streams
from .calls import Call, Message, Terms, Xattrs, encode
from .faults import Fault, fault_of
from .sending import Progress
from .session import TIMEOUT_S, Session, channel_options
from .sources import naming
from .streams import Lost, Watching
from .transaction import Changes, Transaction
from .transfers import STALL_S, Transfers
from .values import Event, Item, Stat
from .watch import Watch

R = TypeVar("R")


class Client(Transfers):
    """A connection to a cluster. Get one from `dfs.connect`, best with `with`.

    It knows the endpoints it is given and learns the other members from them; when one does not
    answer it goes on to the next. Reads are repeated until `timeout` is over, and so are writes:
    each carries a request id, by which the cluster applies it once however often it arrives. What
    this client has seen once, its later reads show as well, on any node.

    A client may be used by several threads at once. After os.fork() the child needs a client of
    its own. It can be pickled: the copy has the same endpoints and connects anew.

    All methods raise the classes of `dfs.errors`. Every `timeout` is in seconds, repetitions
    included; None means the client's own.
    """

    def __init__(
        self, *endpoints: str, timeout: float = TIMEOUT_S, learn: bool = True
    ) -> None:
        """`endpoints`: "host:port", "host" or "unix:/path"; none = localhost. `learn`: use the
        other members as well. Does not block; a wrong address shows at the first call."""
        self._session = Session(endpoints, timeout, learn)
        self._channels: dict[str, grpc.Channel] = {}
        self._methods: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        session = self._session
        return _again, (tuple(session.seeds), session.timeout_s, session.learns)

    def __repr__(self) -> str:
        return f"Client({', '.join(map(repr, self._session.seeds))})"

    def close(self) -> None:
        """Closes all connections; watches end. Idempotent."""
        with self._lock:
            self._closed = True
            channels, self._channels = self._channels, {}
            self._methods = {}
        if self._pid == os.getpid():
            for channel in channels.values():
                channel.close()

    @property
    def endpoints(self) -> list[str]:
        """All endpoints known, those given first."""
        return self._session.endpoints

    # ---- files -----------------------------------------------------------------------------------
    def put(
        self, key: str, data: bytes | bytearray | memoryview, *, mode: int | None = None,
        mtime_ns: int | None = None, uid: int | None = None, gid: int | None = None,
        xattrs: Xattrs | None = None, base_revision: int | None = None,
        request_id: bytes | None = None, timeout: float | None = None,
    ) -> int:
        """Stores a file and returns its revision.

        `base_revision`: the revision that the key must have now (0: it must not exist), else
        Conflict. `request_id`: 16 bytes; the same id is applied once, so a put whose outcome is
        unknown can be repeated even by another process. `xattrs`: extended attributes by name,
        "user.…", of 4 KiB in all.
        """
        metadata = calls.metadata(mode, mtime_ns, uid, gid, xattrs)
        return self._call(
            calls.put(key, data, metadata, base_revision, self._session.id_of(request_id)), timeout
        )

    def get(
        self, key: str, *, revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> bytes:
        """The content of a file; of a retained past revision where `revision` says so.

        `local`: what the node that is asked has applied, which may be behind, but never behind
        what this client has seen; `min_revision` asks for another revision than that at least.
        """
        least = self._session.least(local, min_revision)
        return self._call(calls.get(key, revision, local, least), timeout)

    def read(
        self, key: str, *, revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> tuple[bytes, Stat]:
        """Content and record of a file, of one and the same version; see `get`."""
        least = self._session.least(local, min_revision)
        return self._call(calls.read(key, revision, local, least), timeout)

    def stat(
        self, key: str, *, revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> Stat:
        """What is known of a key; see `get`."""
        least = self._session.least(local, min_revision)
        return self._call(calls.stat(key, revision, local, least), timeout)

    def delete(
        self, key: str, *, recursive: bool = False, base_revision: int | None = None,
        request_id: bytes | None = None, timeout: float | None = None,
    ) -> int:
        """Removes a file, a symlink or an empty directory, or a whole subtree; see `put`."""
        return self._call(
            calls.delete(key, recursive, base_revision, self._session.id_of(request_id)), timeout
        )

    def mkdir(
        self, key: str, *, mode: int | None = None, mtime_ns: int | None = None,
        uid: int | None = None, gid: int | None = None, xattrs: Xattrs | None = None,
        request_id: bytes | None = None, timeout: float | None = None,
    ) -> int:
        """Makes a directory that stays when it is empty. One that exists is no error, and keeps
        what is None of mode, uid, gid and xattrs; `xattrs={}` takes those that it has away."""
        metadata = calls.directory_metadata(mode, mtime_ns, uid, gid, xattrs)
        return self._call(
            calls.mkdir(key, metadata, self._session.id_of(request_id)), timeout
        )

    def symlink(
        self, key: str, target: str, *, mode: int | None = None, mtime_ns: int | None = None,
        uid: int | None = None, gid: int | None = None, xattrs: Xattrs | None = None,
        base_revision: int | None = None, request_id: bytes | None = None,
        timeout: float | None = None,
    ) -> int:
        """Stores a symbolic link; the target is kept as given."""
        metadata = calls.metadata(mode, mtime_ns, uid, gid, xattrs)
        return self._call(
            calls.symlink(key, target, metadata, base_revision, self._session.id_of(request_id)),
            timeout,
        )

    def move(
        self, source: str, target: str, *, replace: bool = False,
        base_revision: int | None = None, request_id: bytes | None = None,
        timeout: float | None = None,
    ) -> int:
        """Gives a file, a symlink or a whole subtree another key, at once; nobody ever sees it at
        both or at neither. `replace`: a file or symlink may take the place of one. `base_revision`
        is that of `source`; see `put`."""
        return self._call(
            calls.move(source, target, replace, base_revision, self._session.id_of(request_id)),
            timeout,
        )

    def copy(
        self, source: str, target: str, *, recursive: bool = False, replace: bool = False,
        base_revision: int | None = None, request_id: bytes | None = None,
        timeout: float | None = None,
    ) -> int:
        """Copies a file or symlink, or with `recursive` a whole subtree, to another key, at once;
        no content travels. See `move`."""
        return self._call(
            calls.copy(
                source, target, recursive, replace, base_revision,
                self._session.id_of(request_id),
            ),
            timeout,
        )

    def transaction(
        self, *, request_id: bytes | None = None, timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Transaction:
        """Several changes as one: `with client.transaction() as t: t.put(…); t.delete(…)`.

        They are made at the end of the block, all under one revision, or none of them; an exception
        inside the block makes none. Each sees what those before it did. `t.revision` afterwards is
        the revision; the error of a refused one names it. `request_id`: see `put`.

        `t.put` takes content of any size. What is too much for one message is uploaded before, at
        the end of the block, and `progress` is told; it takes as long as something moves. Who
        repeats a transaction with its id goes on with the uploads.
        """
        return Transaction(lambda changes: self._commit(changes, request_id, timeout, progress))

    def _commit(
        self, changes: Changes, request_id: bytes | None, timeout: float | None,
        progress: Progress | None,
    ) -> int:  # fmt: skip
        id_, begun_s, limit_s = self._session.id_of(request_id), time.monotonic(), timeout
        if not changes.light:
            with contextlib.closing(changes.uploads(id_, progress, self._keep)) as uploads:
                for sending in uploads:
                    with naming(sending.key):
                        self._transfer(sending, self._send_once)
                    # The members are asked for all of them again: less than the uploads took.
                    limit_s = timeout or max(STALL_S, time.monotonic() - begun_s)
        try:
            return self._call(changes.call(id_), limit_s)
        except Unimplemented:  # by a node of an older version
            return self._call(changes.call(id_, general=True), limit_s)

    def list(
        self, key: str = "", *, recursive: bool = False, data_bytes_max: int = 0, after: str = "",
        limit: int = 0, revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> Iterator[Item]:
        """What is in a directory, or in the whole subtree, in key order, all of one revision: the
        present one, or as of a past `revision` that history retains.

        `data_bytes_max`: content up to that size comes along. `timeout` is for the whole list;
        None: none. When the node is lost on the way the list ends with Unavailable: what came so
        far is of a revision that another node may show no more.
        """
        request = streams.list_request(
            key, recursive, data_bytes_max, after, limit, revision, local,
            self._session.least(local, min_revision),
        )
        for answer in self._stream(streams.LIST, request, pb.ListResponse.FromString, timeout):
            self._answered(self._session.current(), answer.revision)
            yield from streams.items_of(answer)

    def newest(self, *, timeout: float | None = None) -> int:
        """The newest revision: whatever was acknowledged before the call is at or below it."""
        return streams.revision_of_list(self._stream(*streams.NEWEST, timeout))

    def revision_at(
        self, time_ns: int, *, local: bool = False, min_revision: int | None = None,
        timeout: float | None = None,
    ) -> int:
        """The last revision that was not committed after a time, nanoseconds since 1970: as of it
        everything can be read as it was then. Raises OutOfRange when history does not reach back
        so far, or the time is yet to come."""
        request = streams.time_request(time_ns, local, self._session.least(local, min_revision))
        return streams.revision_of_list(
            self._stream(streams.LIST, request, pb.ListResponse.FromString, timeout)
        )

    def history(
        self, key: str, *, limit: int = 0, before_revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> Iterator[Event]:
        """The retained changes of a key and of what is below it, newest first."""
        request = streams.history_request(
            key, limit, before_revision, local, self._session.least(local, min_revision)
        )
        for answer in self._stream(
            streams.HISTORY, request, pb.HistoryResponse.FromString, timeout
        ):
            yield from streams.events_of(answer)

    def watch(
        self, key: str = "", *, after_revision: int = 0, snapshot: bool = False,
        data_bytes_max: int = 0, data_after_revision: int = 0, on_lost: Lost | None = None,
    ) -> Watch:
        """The changes of a key and of what is below it, each once and in order, without end.

        Begins after `after_revision` (0: now), or with the present state where `snapshot` says so:
        then with content, up to `data_bytes_max`, of revisions after `data_after_revision` only.
        A lost node is replaced by another, as long as it takes; `on_lost` is told each time. Raises
        OutOfRange when the changes wanted are not retained any more. See `Update`.
        """
        asked = key, after_revision, snapshot, data_bytes_max, data_after_revision
        return Watch(self, Watching(*asked, self._session.chance), on_lost)

    # ---- cluster ---------------------------------------------------------------------------------
    def status(
        self, *, local: bool = False, timeout: float | None = None
    ) -> pb.StatusResponse:
        """What every member says of itself; `local`: only the node that is asked."""
        return self._call(calls.status(local), timeout)

    def members(self, *, timeout: float | None = None) -> pb.MembersResponse:
        """Who belongs to the cluster."""
        return self._call(calls.members(), timeout)

    def add_member(
        self, name: str, node_id: int, raft: str, grpc: str, *, promote: bool = True,
        dry_run: bool = False, if_config: int | None = None, timeout: float | None = None,
    ) -> pb.AddMemberResponse:
        """Adds an empty node as learner; it gets its vote once it has caught up, if `promote`.

        Of this and the other changes: `dry_run` only makes the plan; `if_config` refuses the change
        unless that is the configuration (`members`); with `node_id` repeating it does no harm.
        """
        terms = Terms(dry_run, if_config)
        return self._call(calls.add_member(name, node_id, raft, grpc, promote, terms), timeout)

    def promote_member(
        self, name: str, node_id: int = 0, *, dry_run: bool = False, if_config: int | None = None,
        timeout: float | None = None,
    ) -> pb.PromoteMemberResponse:
        """Gives a learner its vote."""
        return self._call(calls.promote_member(name, node_id, Terms(dry_run, if_config)), timeout)

    def remove_member(
        self, name: str, node_id: int = 0, *, dry_run: bool = False, if_config: int | None = None,
        timeout: float | None = None,
    ) -> pb.RemoveMemberResponse:
        """Removes a member."""
        return self._call(calls.remove_member(name, node_id, Terms(dry_run, if_config)), timeout)

    def replace_member(
        self, name: str, node_id: int = 0, raft: str = "", *, force: bool = False,
        dry_run: bool = False, if_config: int | None = None, timeout: float | None = None,
    ) -> pb.ReplaceMemberResponse:
        """Lets the empty node that waits at `raft`, or where the member was, take its place."""
        terms = Terms(dry_run, if_config)
        return self._call(calls.replace_member(name, node_id, raft, force, terms), timeout)

    def transfer_leader(self, name: str = "", *, timeout: float | None = None) -> str:
        """Lets another voter lead, any that has caught up for ""; returns its name."""
        return self._call(calls.transfer_leader(name), timeout)

    def backup(
        self, *, local: bool = False, with_contents: bool = True, timeout: float | None = None
    ) -> Iterator[bytes]:
        """The bytes of a file with the whole state in it, of one revision, and the large contents
        that it names, for `dfs snapshot restore`. Ends with Unavailable when the node is lost
        before it is whole: what came so far is worth nothing; with FailedPrecondition when a large
        content cannot be had. `timeout` is for all of it; None: none."""
        request = streams.backup_request(local, with_contents)
        whole = streams.Whole()
        for answer in self._stream(
            streams.BACKUP, request, pb.BackupResponse.FromString, timeout
        ):
            yield whole.take(answer)
        whole.end()

    def report_agent(self, report: pb.AgentStatus, *, timeout: float | None = None) -> None:
        """Tells the node how its agent is; `status` shows it."""
        return self._call(calls.report_agent(report), timeout)

    # ---- sending ---------------------------------------------------------------------------------
    def _call(self, call: Call[R], timeout: float | None) -> R:
        session = self._session
        attempts = session.attempts(call, timeout, time.monotonic())
        failed: set[str] = set()
        while True:
            endpoint = session.current()
            method = self._method(endpoint, call.method, call.parse, "unary_unary")
            limit_s = attempts.timeout_s(time.monotonic(), len(session.endpoints))
            try:
                answer = method(call.request, timeout=limit_s)
            except grpc.RpcError as error:
                why = fault_of(error, endpoint, call.write)
            else:
                revision = call.revision(answer) if call.revision else 0
                self._answered(endpoint, revision)
                return call.read(answer)
            self._wait(attempts.failed, why, endpoint, failed)

    def _wait(
        self, next_attempt: Callable[..., float], why: Fault, endpoint: str, failed: set[str]
    ) -> None:
        """Chooses the next endpoint and waits for its turn, or raises."""
        session = self._session
        failed.add(endpoint)
        if session.failed(endpoint, why, time.monotonic()):
            self._learn(endpoint)
        fresh = session.current() not in failed
        # The gRPC exception is no news for the user: its text is in ours.
        try:
            wait_s = next_attempt(time.monotonic(), why, contact=session.contact, fresh=fresh)
        except DfsError as error:
            raise error from None
        if wait_s:
            time.sleep(wait_s)

    def _stream(
        self, name: str, request: Message, parse: Callable[[bytes], Any], timeout: float | None
    ) -> Iterator[Any]:
        """A stream of answers; repeated elsewhere only as long as nothing has come."""
        session = self._session
        call: Call[Any] = Call(name, request, parse, lambda a: a, None, False, True)
        attempts = session.attempts(call, timeout, time.monotonic())
        failed: set[str] = set()
        while True:
            endpoint = session.current()
            method = self._method(endpoint, name, parse, "unary_stream")
            left_s = None if timeout is None else max(attempts.end_s - time.monotonic(), 0.001)
            stream, count = method(request, timeout=left_s), 0
            try:
                for answer in stream:
                    count += 1
                    session.contact = True
                    yield answer
                return
            except grpc.RpcError as error:
                why = fault_of(error, endpoint, False)
            finally:
                stream.cancel()
            if count:
                raise streams.broken(why.error, count)
            self._wait(attempts.failed, why, endpoint, failed)

    def _method(
        self, endpoint: str, name: str, parse: Callable[[bytes], Any], shape: str
    ) -> Any:
        found = self._methods.get((endpoint, name))
        if found is not None and self._pid == os.getpid():
            return found
        with self._lock:
            if self._closed:
                raise ValueError("this client is closed")
            if self._pid != os.getpid():
                raise RuntimeError(
                    f"this client belongs to process {self._pid}: connect anew after a fork"
                )
            channel = self._channels.get(endpoint)
            if channel is None:
                channel = grpc.insecure_channel(endpoint, options=channel_options(endpoint))
                self._channels[endpoint] = channel
            made = getattr(channel, shape)(
                name, request_serializer=encode, response_deserializer=parse
            )
            self._methods[endpoint, name] = made
        return made

    def _answered(self, endpoint: str, revision: int) -> None:
        if self._session.answered(revision, time.monotonic()):
            self._learn(endpoint)

    def _learn(self, endpoint: str) -> None:
        """Asks for the members without waiting; a failure changes nothing."""
        call = calls.members()
        method = self._method(endpoint, call.method, call.parse, "unary_unary")
        future = method.future(call.request, timeout=CLIENT_LEARN_MS_MAX / 1000)
        future.add_done_callback(self._learned)

    def _learned(self, answer: Any) -> None:
        if self._closed or answer.cancelled() or answer.exception() is not None:
            return
        for endpoint in self._session.learn(answer.result()):
            with self._lock:
                channel = self._channels.pop(endpoint, None)
                for key in [k for k in self._methods if k[0] == endpoint]:
                    del self._methods[key]
            if channel is not None:
                channel.close()


def _again(endpoints: tuple[str, ...], timeout: float, learn: bool) -> Client:
    return Client(*endpoints, timeout=timeout, learn=learn)


def connect(*endpoints: str, timeout: float = TIMEOUT_S, learn: bool = True) -> Client:
    """A client of the cluster that these nodes belong to; see `Client`."""
    return Client(*endpoints, timeout=timeout, learn=learn)
