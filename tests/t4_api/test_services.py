"""Health, reflection, and the cluster as one node sees it."""

import os
import stat

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from dfs.proto import dfs_pb2 as pb
from dfs.proto.dfs_pb2_grpc import FileServiceStub

from .conftest import WIRE, refused

Code = grpc.StatusCode
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("service", ["", "dfs.FileService", "dfs.Leader"])
async def test_health_of_a_ready_node(api, service):
    stub = health_pb2_grpc.HealthStub(api.channel)
    async for answer in stub.Watch(health_pb2.HealthCheckRequest(service=service)):
        if answer.status == SERVING:
            break
    found = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    assert found.status == SERVING


async def test_health_of_an_unknown_service(api):
    stub = health_pb2_grpc.HealthStub(api.channel)
    found = await refused(stub.Check(health_pb2.HealthCheckRequest(service="x")))
    assert found.code == Code.NOT_FOUND


async def test_reflection_knows_every_service_and_message(api):
    stub = reflection_pb2_grpc.ServerReflectionStub(api.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="dfs.FileService"),
    ]
    names, file = [a async for a in stub.ServerReflectionInfo(iter(asked))]
    assert {s.name for s in names.list_services_response.service} == {
        "dfs.FileService", "dfs.ClusterService", "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert b"PutRequest" in file.file_descriptor_response.file_descriptor_proto[0]


async def test_status_and_members(api):
    put = await api.files.Put(pb.PutRequest(key="d/k", data=b"12345"))
    for local in (False, True):
        found = await api.cluster.Status(pb.StatusRequest(local=local))
        (node,) = found.nodes
        assert (node.role, node.leader, node.error) == ("leader", "node1", "")
        assert (node.applied, node.keys, node.bytes) == (put.revision, 2, 5)
        assert node.state_hash == api.running.store.state_hash
        assert node.version
        assert node.rss_bytes > 1 << 20
        assert node.HasField("disk_free_bytes")
        assert node.cpu_us > 0
        assert node.term >= 1
        assert found.cluster == api.running.identity.cluster
    members = await api.cluster.Members(pb.MembersRequest())
    (member,) = members.members
    assert (member.name, member.id) == ("node1", api.running.identity.id)
    assert (member.voter, member.leader) == (True, True)
    assert member == node.member
    assert len(members.cluster) == 16


async def test_the_agent_is_shown_by_status(api):
    report = pb.AgentStatus(
        cache="/c", mount="/m", mount_mode="read", revision=7, pending_drops=2,
        cached_bytes=1 << 40, problems=["a file is too large"], files=3,
    )
    await api.cluster.ReportAgent(pb.ReportAgentRequest(status=report))
    (node,) = (await api.cluster.Status(pb.StatusRequest())).nodes
    assert node.agent == report


@pytest.mark.parametrize("operation", ["Promote", "Remove", "Replace"])
async def test_operations_on_a_node_that_is_no_member(api, operation):
    request = getattr(pb, f"{operation}MemberRequest")(name="node9")
    found = await refused(getattr(api.cluster, f"{operation}Member")(request))
    assert (found.code, found.reason) == (Code.FAILED_PRECONDITION, "NOT_A_MEMBER")
    assert found.text == "node9 is no member; there are node1"


async def test_the_only_member_stays(api):
    found = await refused(api.cluster.RemoveMember(pb.RemoveMemberRequest(name="node1")))
    assert found.text == "node1 is the only voter: without it there is no cluster"
    found = await refused(api.cluster.TransferLeader(pb.TransferLeaderRequest()))
    assert found.text == "there is no other voter that could lead"
    moved = await api.cluster.TransferLeader(pb.TransferLeaderRequest(name="node1"))
    assert moved.leader == "node1"


async def test_a_plan_and_the_configuration_it_is_for(api):
    members = await api.cluster.Members(pb.MembersRequest())
    status = await api.cluster.Status(pb.StatusRequest())
    done = await api.cluster.PromoteMember(pb.PromoteMemberRequest(name="node1"))
    assert done.plan.nothing
    assert done.plan.summary == "node1 is a voter already"
    assert members.config == status.config == done.config == done.plan.config
    now, _ = done.plan.stages
    assert (now.voters, now.may_fail, now.spare) == (1, 0, 0)
    assert list(now.members) == list(members.members)


async def test_adding_a_node_that_does_not_answer(api):
    request = pb.AddMemberRequest(name="node2", raft="127.0.0.1:1")
    found = await refused(api.cluster.AddMember(request))
    assert (found.code, found.reason) == (Code.FAILED_PRECONDITION, "NOT_A_MEMBER")
    assert found.text.startswith("no node waits at 127.0.0.1:1 to be taken in (")


async def test_the_socket_is_for_this_user_only(api):
    mode = os.stat(api.running.upstream).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    if api.host == "memory":
        return
    mode = os.stat(api.running.socket).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_the_local_socket_serves_hot_and_forwarded_calls(api):
    if api.host not in WIRE:
        pytest.skip("the engine serves this socket")
    # As dfs.Client does: the path that gRPC would send else is no authority.
    options = [("grpc.default_authority", "localhost")]
    async with grpc.aio.insecure_channel(f"unix:{api.running.socket}", options) as channel:
        files = FileServiceStub(channel)
        revision = (await files.Put(pb.PutRequest(key="local", data=b"v"))).revision
        assert (await files.Get(pb.GetRequest(key="local"))).data == b"v"
        listed = [part async for part in files.List(pb.ListRequest(key="local"))]
    assert listed[0].items[0].record.revision == revision
