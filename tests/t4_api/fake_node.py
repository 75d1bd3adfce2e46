"""A node that is a dict, for tests of the client: it can be told to fail in every way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from dfs import errors
from dfs.proto import dfs_pb2 as pb
from dfs.proto import dfs_pb2_grpc

PATIENCE_S = 10.0


def wait_until(what: str, condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Returns when the condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)


class Tree:
    """What several fake nodes share: the state of the cluster."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.revision = 0
        self.files: dict[str, tuple[bytes, pb.Record]] = {}
        self.events: list[pb.Event] = []
        self.applied: dict[bytes, int] = {}
        self.floor = 0

    def put(self, request: pb.PutRequest) -> int:
        with self.lock:
            if request.request_id in self.applied:
                return self.applied[request.request_id]
            old = self.files.get(request.key)
            before = old[1].revision if old else 0
            if request.HasField("base_revision") and request.base_revision != before:
                raise errors.Conflict(f"{request.key} is at revision {before}")
            self.revision += 1
            record = pb.Record(revision=self.revision, size=len(request.data), mode=0o644)
            self.files[request.key] = (request.data, record)
            self.events.append(pb.Event(
                key=request.key, record=record, revision=self.revision, data=request.data,
                has_data=True, previous_revision=before,
            ))
            self.applied[request.request_id] = self.revision
            self.lock.notify_all()
            return self.revision


class Node(dfs_pb2_grpc.FileServiceServicer, dfs_pb2_grpc.ClusterServiceServicer):
    """One fake node. `fail` is asked before each call, `lose` after it; either may raise."""

    def __init__(self, tree: Tree, port: int = 0) -> None:
        self.tree = tree
        self.calls: list[tuple[str, Any]] = []
        self.fail: Callable[[str, Any], None] = never
        self.lose: Callable[[str, Any], None] = never
        self.members: list[str] = []
        self.silent = False
        self.stopped = threading.Event()
        self.server = grpc.server(
            futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)]
        )
        dfs_pb2_grpc.add_FileServiceServicer_to_server(self, self.server)
        dfs_pb2_grpc.add_ClusterServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def count(self, name: str) -> int:
        return sum(1 for called, _ in self.calls if called == name)

    def stop(self) -> None:
        self.stopped.set()
        with self.tree.lock:
            self.tree.lock.notify_all()
        self.server.stop(None).wait()

    def answer(self, name: str, request: Any, context: Any, make: Callable[[], Any]) -> Any:
        self.calls.append((name, request))
        try:
            self.fail(name, request)
            made = make()
            self.lose(name, request)
        except errors.DfsError as error:
            refuse(context, error)
        else:
            return made

    # The names of the methods are gRPC's.
    def Put(self, request: pb.PutRequest, context: Any) -> Any:
        return self.answer("Put", request, context, lambda: pb.PutResponse(
            revision=self.tree.put(request)))

    def PutMany(self, request: pb.TransactionRequest, context: Any) -> Any:
        return self._first("PutMany", request, context)

    def Transaction(self, request: pb.TransactionRequest, context: Any) -> Any:
        return self._first("Transaction", request, context)

    def _first(self, name: str, request: pb.TransactionRequest, context: Any) -> Any:
        put = request.operations[0].put
        one = pb.PutRequest(key=put.key, data=put.data, request_id=request.request_id)
        return self.answer(name, request, context, lambda: pb.TransactionResponse(
            revision=self.tree.put(one)))

    def _find(self, key: str) -> tuple[bytes, pb.Record]:
        if key not in self.tree.files:
            raise errors.NotFound(f"no such key: {key}")
        return self.tree.files[key]

    def Get(self, request: pb.GetRequest, context: Any) -> Any:
        def make() -> pb.GetResponse:
            data, record = self._find(request.key)
            return pb.GetResponse(data=data, record=record)

        return self.answer("Get", request, context, make)

    def Stat(self, request: pb.StatRequest, context: Any) -> Any:
        return self.answer("Stat", request, context, lambda: pb.StatResponse(
            record=self._find(request.key)[1]))

    def List(self, request: pb.ListRequest, context: Any) -> Iterator[pb.ListResponse]:
        self.answer("List", request, context, lambda: None)
        with self.tree.lock:
            files, revision = sorted(self.tree.files.items()), self.tree.revision
        found = [(key, *entry) for key, entry in files if key.startswith(request.key)]
        for key, data, record in found:
            item = pb.Item(key=key, record=record, data=data, has_data=request.data_bytes_max > 0)
            yield pb.ListResponse(items=[item], revision=revision)
            self.answer("List part", request, context, lambda: None)
        if not found:
            yield pb.ListResponse(revision=revision)

    def Watch(self, request: pb.WatchRequest, context: Any) -> Iterator[pb.WatchResponse]:
        self.answer("Watch", request, context, lambda: None)
        tree = self.tree
        after = request.after_revision
        if after and after < tree.floor:
            yield pb.WatchResponse(gap_floor=tree.floor)
            return
        if request.snapshot:
            with tree.lock:
                files, after = sorted(tree.files.items()), tree.revision
            for key, (_, record) in files:
                yield pb.WatchResponse(items=[pb.Item(key=key, record=record)])
                self.answer("Watch part", request, context, lambda: None)
            yield pb.WatchResponse(snapshot_end=True, revision=after)
        elif not after:
            after = tree.revision
        while context.is_active() and not self.stopped.is_set():
            if not self.silent:
                with tree.lock:
                    events = [e for e in tree.events if e.revision > after]
                    after = max(after, tree.revision)
                yield pb.WatchResponse(events=events, revision=after)
                self.answer("Watch part", request, context, lambda: None)
            with tree.lock:
                if tree.revision == after:
                    tree.lock.wait(0.2)

    def Members(self, request: pb.MembersRequest, context: Any) -> Any:
        return self.answer("Members", request, context, lambda: pb.MembersResponse(
            members=[pb.Member(name=e, grpc=e) for e in self.members]))

    def TransferLeader(self, request: pb.TransferLeaderRequest, context: Any) -> Any:
        return self.answer("TransferLeader", request, context, lambda: pb.TransferLeaderResponse(
            leader=request.name or "any"))


def refuse(context: Any, error: errors.DfsError, retry_after_s: float = 0.0) -> None:
    """Ends the call the way a node does."""
    details = [any_pb2.Any(), any_pb2.Any()]
    details[0].Pack(error_details_pb2.ErrorInfo(
        reason=error.row.reason, domain=errors.DOMAIN, metadata=error.metadata
    ))
    nanos = int(retry_after_s * 1e9)
    details[1].Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=nanos)))
    status = status_pb2.Status(code=error.row.code, message=error.text, details=details)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(next(c for c in grpc.StatusCode if c.value[0] == error.row.code), error.text)


def never(name: str, request: Any) -> None:
    """For `fail` and `lose`: nothing goes wrong."""


def failing(
    name: str, error: errors.DfsError, times: int = 1
) -> Callable[[str, Any], None]:
    """For `fail` and `lose`: that error for the first calls of that method."""
    left = [times]

    def fail(called: str, request: Any) -> None:
        if called == name and left[0] > 0:
            left[0] -= 1
            raise error

    return fail
