"""status, member, leader."""

from __future__ import annotations

import argparse
from typing import Any, cast

from ..config import split_address
from ..errors import InvalidArgument
from ..limits import RAFT_PORT
from ..proto import dfs_pb2 as pb
from . import output, parsing, shared

_COLUMNS = (
    "node", "role", "term", "applied", "lag", "contact", "keys", "bytes", "version", "grpc", "mount"
)


# ---- status --------------------------------------------------------------------------------------
def status_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs status`."""
    parser.add_argument(
        "--local", action="store_true", help="Only the node that is asked, by what it knows."
    )
    parsing.output_flag(parser)


def status(args: argparse.Namespace) -> None:
    """One table of the whole cluster, from any node."""
    with shared.client(args) as client:
        answer = client.status(local=args.local)
    nodes = sorted(answer.nodes, key=lambda n: n.member.name)
    if args.output == "json":
        output.json({"cluster": answer.cluster.hex(), "nodes": [node_json(n) for n in nodes]})
        return
    newest = max((max(n.applied, n.committed) for n in nodes), default=0)
    output.table(_COLUMNS, [_row(n, newest) for n in nodes], right="term applied lag keys bytes")
    for line in shared.troubles(nodes):
        output.text(line)


def _row(node: pb.NodeStatus, newest: int) -> tuple[str, ...]:
    member = node.member
    if not node.role:
        kind = "voter" if member.voter else "learner"
        unknown = [""] * 3
        return (
            member.name, f"silent {kind}", *unknown, _contact(node), *unknown, member.grpc, ""
        )
    return (
        member.name, node.role, str(node.term), f"{node.applied:,}",
        f"{max(newest - node.applied, 0):,}", _contact(node), f"{node.keys:,}",
        output.size(node.bytes), node.version, member.grpc, mounted(node.agent),
    )


def _contact(node: pb.NodeStatus) -> str:
    if node.role == "leader":
        return "-"
    return output.duration(node.last_contact_ms / 1000) if node.last_contact_ms else ""


def mounted(agent: pb.AgentStatus) -> str:
    """Where the tree is shown, in a word or two."""
    if not agent.mount or agent.mount_mode.startswith("off"):
        return "-"
    return agent.mount


def node_json(node: pb.NodeStatus) -> dict[str, Any]:
    """A node for programs: the fields of NodeStatus under their names."""
    from google.protobuf.json_format import MessageToDict

    found: dict[str, Any] = MessageToDict(
        node, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    found["state_hash"] = cast(Any, node).state_hash.hex()  # its stub has a field named bytes
    return _numbers(node, found)


def _numbers(message: Any, found: dict[str, Any]) -> dict[str, Any]:
    """protobuf's JSON has 64 bit numbers as strings; ours has numbers."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if isinstance(value, int) and not isinstance(value, bool) and field.enum_type is None:
            found[field.name] = value
        elif field.message_type is not None and field.name in found:
            _numbers(value, found[field.name])
    return found


# ---- member --------------------------------------------------------------------------------------
def member_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs member`."""
    parts = parser.add_subparsers(dest="operation", metavar="add | promote | remove", required=True)
    add = parts.add_parser("add", help="Take in a node that waits with an empty data directory.")
    add.add_argument("raft", help=f"Its peer address, host[:{RAFT_PORT}].")
    add.add_argument("--name", default="", help="Refuse if the node there has another id.")
    add.add_argument(
        "--learner", action="store_true", help="It stays without a vote until it is promoted."
    )
    promote = parts.add_parser("promote", help="Give a learner its vote.")
    promote.add_argument("name")
    remove = parts.add_parser("remove", help="Take a node out; its data stay where they are.")
    remove.add_argument("name")


def member(args: argparse.Namespace) -> None:
    """Changes the membership; done when it is committed."""
    with shared.client(args) as client:
        if args.operation == "add":
            client.add_member(args.name, 0, _raft(args.raft), "", promote=not args.learner)
            output.note(f"{args.name or args.raft} is added. Try: dfs status")
        elif args.operation == "promote":
            client.promote_member(args.name)
            output.note(f"{args.name} is a voter")
        else:
            client.remove_member(args.name)
            output.note(f"{args.name} is removed; stop it, and empty its data directory before"
                        " it joins again")


def _raft(text: str) -> str:
    try:
        host, port = split_address(text, RAFT_PORT)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# ---- leader --------------------------------------------------------------------------------------
def leader_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs leader`."""
    parts = parser.add_subparsers(dest="operation", metavar="move", required=True)
    move = parts.add_parser("move", help="Let another voter lead.")
    move.add_argument("name", nargs="?", default="", help="Default: any that has caught up.")


def leader(args: argparse.Namespace) -> None:
    """Moves leadership and prints who leads."""
    with shared.client(args) as client:
        output.text(client.transfer_leader(args.name))
