"""ClusterService on grpcio: decode, ask the node, encode."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from ..proto.dfs_pb2 import (
    AddMemberRequest,
    AddMemberResponse,
    Member,
    MembersRequest,
    MembersResponse,
    NodeStatus,
    PromoteMemberRequest,
    PromoteMemberResponse,
    RemoveMemberRequest,
    RemoveMemberResponse,
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

    async def operate(self, operation: dict[str, Any]) -> dict[str, Any]:
        """Changes the membership."""

    async def status(self, local: bool) -> list[dict[str, Any]]:
        """What every member says of itself."""

    def members(self) -> list[dict[str, Any]]:
        """The members as this node knows them."""

    def report_agent(self, report: dict[str, Any]) -> None:
        """Keeps what the local agent says."""


class ClusterService:
    """All methods of dfs.ClusterService."""

    def __init__(self, node: Cluster) -> None:
        self._node = node

    def handler(self) -> grpc.GenericRpcHandler:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        table: dict[str, Any] = {
            "Status": _unary(StatusRequest, self._status),
            "Members": _unary(MembersRequest, self._members),
            "AddMember": _unary(AddMemberRequest, self._add),
            "PromoteMember": _unary(PromoteMemberRequest, self._promote),
            "RemoveMember": _unary(RemoveMemberRequest, self._remove),
            "TransferLeader": _unary(TransferLeaderRequest, self._transfer),
            "ReportAgent": _unary(ReportAgentRequest, self._report),
        }
        return grpc.method_handlers_generic_handler(SERVICE, table)

    async def _status(self, request: StatusRequest) -> StatusResponse:
        rows = await self._node.status(request.local)
        nodes = [ParseDict(row, NodeStatus(), ignore_unknown_fields=True) for row in rows]
        return StatusResponse(nodes=nodes, cluster=self._node.cluster)

    async def _members(self, _request: MembersRequest) -> MembersResponse:
        members = [ParseDict(member, Member()) for member in self._node.members()]
        return MembersResponse(members=members, cluster=self._node.cluster)

    async def _add(self, request: AddMemberRequest) -> AddMemberResponse:
        found = await self._node.operate(
            {
                "op": "add", "name": request.name, "id": request.id, "raft": request.raft,
                "grpc": request.grpc, "promote": request.promote,
            }
        )
        return AddMemberResponse(cluster=bytes.fromhex(found["cluster"]))

    async def _promote(self, request: PromoteMemberRequest) -> PromoteMemberResponse:
        await self._node.operate({"op": "promote", "name": request.name})
        return PromoteMemberResponse()

    async def _remove(self, request: RemoveMemberRequest) -> RemoveMemberResponse:
        await self._node.operate({"op": "remove", "name": request.name})
        return RemoveMemberResponse()

    async def _transfer(self, request: TransferLeaderRequest) -> TransferLeaderResponse:
        found = await self._node.operate({"op": "transfer", "name": request.name})
        return TransferLeaderResponse(leader=found["leader"])

    async def _report(self, request: ReportAgentRequest) -> ReportAgentResponse:
        self._node.report_agent(MessageToDict(request.status, preserving_proto_field_name=True))
        return ReportAgentResponse()


def _unary(kind: type[Message], method: Callable[[Any], Awaitable[Message]]) -> Any:
    async def answer(body: bytes) -> bytes:
        check_size(body)
        return (await method(parse(kind, body))).SerializeToString()

    async def call(body: bytes, context: Context) -> bytes:
        return await guarded(context, answer(body), timeout_ms(context))

    return grpc.unary_unary_rpc_method_handler(call)
