"""status, member, leader."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, cast

from ..client import Client
from ..config import split_address
from ..errors import FailedPrecondition, InvalidArgument
from ..limits import RAFT_PORT
from ..proto import dfs_pb2 as pb
from . import keep, output, parsing, safe, shared

_COLUMNS = (
    "node", "role", "term", "applied", "lag", "contact", "keys", "bytes", "version", "grpc", "mount"
)


# ---- status --------------------------------------------------------------------------------------
def status_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs status`."""
    parser.add_argument(
        "path", nargs="?", default=None,
        help="Is it safe to unplug this machine: where is what lies there? A key, or a file of the "
        "cache directory or the mount.",
    )
    keep.agent_flag(parser)
    parser.add_argument(
        "--local", action="store_true", help="Only the node that is asked, by what it knows."
    )
    parsing.output_flag(parser)


def status(args: argparse.Namespace) -> int:
    """One table of the whole cluster, from any node; of a path, whether it is safe."""
    if args.path is not None:
        return safe.status(args)
    with shared.client(args) as client:
        answer = client.status(local=args.local)
    nodes = sorted(answer.nodes, key=lambda n: n.member.name)
    if args.output == "json":
        output.json({
            "cluster": answer.cluster.hex(), "config": answer.config,
            "nodes": [node_json(n) for n in nodes],
        })
        return 0
    newest = max((max(n.applied, n.committed) for n in nodes), default=0)
    output.table(_COLUMNS, [_row(n, newest) for n in nodes], right="term applied lag keys bytes")
    for line in shared.troubles(nodes):
        output.text(line)
    return 0


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
    """Where the tree is shown, and how files are read there."""
    if not agent.mount or agent.mount_mode.startswith("off"):
        return "-"
    return f"{agent.mount} ({agent.mount_mode})"


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
        elif field.message_type is None or field.name not in found:
            continue
        elif field.is_repeated:
            for one, shown in zip(value, found[field.name], strict=True):
                _numbers(one, shown)
        else:
            _numbers(value, found[field.name])
    return found


# ---- member --------------------------------------------------------------------------------------
_STAGES = ("when", "members", "voters", "tolerates", "spare")


def member_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs member`."""
    names = "add | promote | remove | replace"
    parts = parser.add_subparsers(dest="operation", metavar=names, required=True)
    add = parts.add_parser("add", help="Take in a node that waits with an empty data directory.")
    add.add_argument("raft", help=f"Its peer address, host[:{RAFT_PORT}].")
    add.add_argument("--name", default="", help="Refuse if the node there has another id.")
    add.add_argument(
        "--learner", action="store_true", help="It stays without a vote until it is promoted."
    )
    promote = parts.add_parser("promote", help="Give a learner its vote.")
    remove = parts.add_parser("remove", help="Take a node out; its data stay where they are.")
    put = parts.add_parser(
        "replace", help="Let an empty node that waits take the place of one that is gone."
    )
    for part in (promote, remove, put):
        part.add_argument("name")
    put.add_argument(
        "raft", nargs="?", default="",
        help=f"Peer address of the empty node, host[:{RAFT_PORT}]. Default: where the old one was.",
    )
    put.add_argument("--force", action="store_true", help="Also while the old one lives.")
    for part in (add, promote, remove, put):
        part.add_argument(
            "--dry-run", action="store_true", help="Only show what it would do."
        )
        part.add_argument(
            "--if-config", type=int, default=None, metavar="N",
            help="Refuse unless N is the configuration that `dfs status -o json` and plans name.",
        )
        parsing.output_flag(part)


def member(args: argparse.Namespace) -> None:
    """Shows what a change of the membership does, and makes it; done when it is committed.

    What is made is what was shown: if the members change in between, a new plan is shown first.
    """
    with shared.client(args) as client:
        planned = _carried_out(_change(client, args), args)
    plan = planned.plan
    if args.output == "json":
        done = not args.dry_run
        output.json({"plan": _plan_json(plan), "done": done, "config": planned.config})
    elif plan.nothing:
        output.note("nothing to do")
    elif args.dry_run:
        output.note("nothing was changed: this is what it would do")
    else:
        output.note(f"done: configuration {planned.config}. {_NEXT[args.operation]}")


def _carried_out(change: Callable[..., Any], args: argparse.Namespace) -> Any:
    """What the node answered to the last plan that was shown, which is the one that was made.

    A script adds one node after the other, and while it does, those from before get their votes:
    that is no reason to make it start again.
    """
    meant, refused = -1, FailedPrecondition("")
    for _ in range(_PLANS_MAX):
        planned = change(0, dry_run=True, if_config=args.if_config)
        plan = planned.plan
        if plan.config == meant:
            break  # the members are those that were meant: it was refused for another reason
        if refused.text:
            output.note(
                f"nothing was done yet: the members have changed meanwhile, configuration {meant}"
                f" is {plan.config} now. What is done instead:"
            )
        if args.output != "json":
            show_plan(plan)
        if args.dry_run or plan.nothing:
            return planned
        try:
            return change(_target(args, plan), dry_run=False, if_config=plan.config)
        except FailedPrecondition as error:
            meant, refused = plan.config, error
    raise refused


_PLANS_MAX = 5
"""Plans that one command makes, each because the members had changed since the one before."""

_NEXT = {
    "add": "It catches up now: dfs status",
    "promote": "Try: dfs status",
    "remove": "Stop that node, and empty its data directory before it joins again",
    "replace": "It catches up now: dfs status",
}


def _change(client: Client, args: argparse.Namespace) -> Callable[..., Any]:
    """The method for an operation, which still wants the id of the member, and its terms."""

    def call(number: int, **terms: Any) -> Any:
        if args.operation == "add":
            return client.add_member(
                args.name, number, _raft(args.raft), "", promote=not args.learner, **terms
            )
        if args.operation == "promote":
            return client.promote_member(args.name, number, **terms)
        if args.operation == "remove":
            return client.remove_member(args.name, number, **terms)
        raft = _raft(args.raft) if args.raft else ""
        return client.replace_member(args.name, number, raft, force=args.force, **terms)

    return call


def _target(args: argparse.Namespace, plan: pb.MembershipPlan) -> int:
    """The id of the member that the plan is about."""
    before, then = ({m.id: m for m in stage.members} for stage in plan.stages[:2])
    if args.operation == "add":
        return next((m.id for m in then.values() if m.id not in before), 0)
    return next((m.id for m in before.values() if m.name == args.name), 0)


def show_plan(plan: pb.MembershipPlan) -> None:
    """The members now, after the change, and when it has come to its end; what they can bear."""
    output.text(f"{plan.summary} (configuration {plan.config})")
    if plan.leader_moves:
        output.text("it leads: another voter takes over first")
    stages = plan.stages[:1] if plan.nothing else plan.stages
    rows = [
        (
            stage.when, ", ".join(_described(m) for m in stage.members), str(stage.voters),
            str(stage.may_fail), str(stage.spare),
        )
        for stage in stages
    ]
    output.table(_STAGES, rows, right="voters tolerates spare")
    for warning in plan.warnings:
        output.text(f"warning: {warning}")


def _described(member: pb.Member) -> str:
    words = [member.name]
    if not member.voter:
        words.append("learner")
    if member.leader:
        words.append("leads")
    if member.silent:
        words.append("silent")
    return " ".join(words)


def _plan_json(plan: pb.MembershipPlan) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    found: dict[str, Any] = MessageToDict(
        plan, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _numbers(plan, found)


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
