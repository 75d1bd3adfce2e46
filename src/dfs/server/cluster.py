"""ClusterService on grpcio: decode, ask the node, encode."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, Protocol

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from ..node import Mailboxes
from ..proto.dfs_pb2 import (
    LOCAL,
    AddMemberRequest,
    AddMemberResponse,
    BackupRequest,
    BackupResponse,
    Member,
    MembershipPlan,
    MembersRequest,
    MembersResponse,
    NodeStatus,
    PromoteMemberRequest,
    PromoteMemberResponse,
    RemoveMemberRequest,
    RemoveMemberResponse,
    ReplaceMemberRequest,
    ReplaceMemberResponse,
    ReportAgentRequest,
    ReportAgentResponse,
    StatusRequest,
    StatusResponse,
    TransferLeaderRequest,
    TransferLeaderResponse,
)
from .guard import Context, check_size, guarded, timeout_ms
from .hot import parse

SERVICE: Final = "dfs.ClusterService"


class Cluster(Protocol):
    """What the service needs of a node."""

    @property
    def cluster(self) -> bytes:
        """UUID of the cluster."""

    @property
    def config(self) -> int:
        """Index of the log entry that says who the members are."""

    async def operate(self, operation: dict[str, Any]) -> dict[str, Any]:
        """Changes the membership."""

    async def status(self, local: bool) -> list[dict[str, Any]]:
        """What every member says of itself."""

    def members(self) -> list[dict[str, Any]]:
        """The members as this node knows them."""

    def report_agent(self, report: dict[str, Any]) -> None:
        """Keeps what the local agent says."""

    async def barrier(self, local: bool, min_revision: int, timeout_ms: int) -> None:
        """Returns when a view shows what the caller asks for."""

    def backup(self, with_contents: bool) -> AsyncGenerator[tuple[bytes, bytes], None]:
        """Yields (next bytes of a backup, its digest in the end)."""


class ClusterService:
    """All methods of dfs.ClusterService."""

    def __init__(self, node: Cluster) -> None:
        self._node = node
        self._mailboxes = Mailboxes()

    def handler(self) -> grpc.GenericRpcHandler:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        table: dict[str, Any] = {
            "Status": _unary(StatusRequest, self._status),
            "Members": _unary(MembersRequest, self._members),
            "AddMember": _unary(AddMemberRequest, self._add),
            "PromoteMember": _unary(PromoteMemberRequest, self._promote),
            "RemoveMember": _unary(RemoveMemberRequest, self._remove),
            "ReplaceMember": _unary(ReplaceMemberRequest, self._replace),
            "TransferLeader": _unary(TransferLeaderRequest, self._transfer),
            "ReportAgent": _unary(ReportAgentRequest, self._report),
            "Backup": grpc.unary_stream_rpc_method_handler(self._backup),
        }
        return grpc.method_handlers_generic_handler(SERVICE, table)

    async def _status(self, request: StatusRequest) -> StatusResponse:
        rows = await self._node.status(request.local)
        nodes = [ParseDict(row, NodeStatus(), ignore_unknown_fields=True) for row in rows]
        return StatusResponse(
            nodes=nodes, cluster=self._node.cluster, config=self._node.config
        )

    async def _members(self, _request: MembersRequest) -> MembersResponse:
        members = [ParseDict(member, Member()) for member in self._node.members()]
        return MembersResponse(
            members=members, cluster=self._node.cluster, config=self._node.config
        )

    async def _add(self, request: AddMemberRequest) -> AddMemberResponse:
        found = await self._node.operate(
            {
                "op": "add", "name": request.name, "id": request.id, "raft": request.raft,
                "grpc": request.grpc, "promote": request.promote, **_terms(request),
            }
        )
        return AddMemberResponse(
            cluster=bytes.fromhex(found["cluster"]), plan=_plan(found), config=found["config"]
        )

    async def _promote(self, request: PromoteMemberRequest) -> PromoteMemberResponse:
        found = await self._node.operate(
            {"op": "promote", "name": request.name, "id": request.id, **_terms(request)}
        )
        return PromoteMemberResponse(plan=_plan(found), config=found["config"])

    async def _remove(self, request: RemoveMemberRequest) -> RemoveMemberResponse:
        found = await self._node.operate(
            {"op": "remove", "name": request.name, "id": request.id, **_terms(request)}
        )
        return RemoveMemberResponse(plan=_plan(found), config=found["config"])

    async def _replace(self, request: ReplaceMemberRequest) -> ReplaceMemberResponse:
        found = await self._node.operate(
            {
                "op": "replace", "name": request.name, "id": request.id, "raft": request.raft,
                "force": request.force, **_terms(request),
            }
        )
        return ReplaceMemberResponse(plan=_plan(found), config=found["config"])

    async def _transfer(self, request: TransferLeaderRequest) -> TransferLeaderResponse:
        found = await self._node.operate({"op": "transfer", "name": request.name})
        return TransferLeaderResponse(leader=found["leader"])

    async def _report(self, request: ReportAgentRequest) -> ReportAgentResponse:
        self._node.report_agent(MessageToDict(request.status, preserving_proto_field_name=True))
        return ReportAgentResponse()

    async def _backup(self, body: bytes, context: Context) -> None:
        await guarded(context, self._send_backup(body, context))

    async def _send_backup(self, body: bytes, context: Context) -> None:
        check_size(body)
        request = parse(BackupRequest, body)
        await self._node.barrier(request.consistency == LOCAL, 0, timeout_ms(context))
        async with (
            self._mailboxes.open(context.write) as caller,
            aclosing(self._node.backup(not request.without_contents)) as pieces,
        ):
            async for data, sha256 in pieces:
                answer = BackupResponse(data=data, sha256=sha256)
                await caller.write(answer.SerializeToString(), pinned=True)


def _terms(request: Any) -> dict[str, Any]:
    config = request.if_config if request.HasField("if_config") else None
    return {"dry_run": request.dry_run, "config": config}


def _plan(found: dict[str, Any]) -> MembershipPlan:
    return ParseDict(found["plan"], MembershipPlan())


def _unary(kind: type[Message], method: Callable[[Any], Awaitable[Message]]) -> Any:
    async def answer(body: bytes) -> bytes:
        check_size(body)
        return (await method(parse(kind, body))).SerializeToString()

    async def call(body: bytes, context: Context) -> bytes:
        return await guarded(context, answer(body), timeout_ms(context))

    return grpc.unary_unary_rpc_method_handler(call)
