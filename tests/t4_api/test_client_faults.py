"""What the client makes of failures: the pure part, without nodes."""

from __future__ import annotations

import random
import time
import uuid

import pytest

import dfs
from dfs.client.calls import uuid7
from dfs.client.faults import Attempts, Fault, fault
from dfs.client.session import Session, target
from dfs.proto import dfs_pb2 as pb

UNAVAILABLE, DEADLINE, EXHAUSTED = 14, 4, 8


@pytest.mark.parametrize(("text", "write", "kind", "said"), [
    ("failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect"
     " to remote host: connect: Connection refused (111)", True, dfs.Unavailable,
     "no node answers at x: connection refused"),
    ("DNS resolution failed for x", True, dfs.Unavailable, "the name cannot be resolved"),
    ("failed to connect to all addresses", True, dfs.Unavailable, "no node answers at x"),
    # An established connection that times out says so in words that name no failed attempt.
    ("recvmsg: Connection timed out (110)", True, dfs.OutcomeUnknown, "broke before the answer"),
    ("Socket closed", True, dfs.OutcomeUnknown, "broke before the answer came"),
    ("Socket closed", False, dfs.Unavailable, "the connection to x broke: Socket closed"),
])
def test_nothing_was_done_is_said_only_where_no_connection_was_made(
    text: str, write: bool, kind: type[dfs.DfsError], said: str
) -> None:
    why = fault(UNAVAILABLE, text, None, "x", write)
    assert type(why.error) is kind
    assert said in why.error.text
    assert not why.answered


def test_codes_without_details() -> None:
    assert "the write may still happen" in fault(DEADLINE, "", None, "x", True).error.text
    assert "write" not in fault(DEADLINE, "", None, "x", False).error.text
    large = fault(EXHAUSTED, "Sent message larger than max (9 vs. 8)", None, "x", True)
    assert isinstance(large.error, dfs.TooLarge)
    assert isinstance(fault(EXHAUSTED, "busy", None, "x", True).error, dfs.Overloaded)
    assert isinstance(fault(2, "", None, "x", True).error, dfs.Internal)
    broken = fault(5, "gone", [("grpc-status-details-bin", b"\xff")], "x", True)
    assert isinstance(broken.error, dfs.NotFound)


def attempts(timeout_s: float = 10.0, *, write: bool = True, repeatable: bool = True) -> Attempts:
    return Attempts(
        100.0, timeout_s, write=write, repeatable=repeatable, request_id=b"i" * 16,
        chance=random.Random(1),
    )


LOST = Fault(dfs.OutcomeUnknown("lost"), 0.0, True)
AWAY = Fault(dfs.Unavailable("away"), 0.0, False)


def test_another_endpoint_is_tried_at_once_the_same_one_later() -> None:
    tried = attempts()
    assert tried.failed(100.0, LOST, contact=True, fresh=True) == 0.0
    waits = [tried.failed(100.0, LOST, contact=True, fresh=False) for _ in range(8)]
    assert 0.02 <= waits[0] <= 0.08
    assert 0.5 <= waits[-1] <= 1.0
    asked = Fault(dfs.Overloaded("busy"), 2.5, True)
    assert tried.failed(100.0, asked, contact=True, fresh=True) == 2.5


def test_time_is_left_for_another_endpoint() -> None:
    tried = attempts()
    assert tried.timeout_s(100.0, endpoints=1) == 10.0
    assert tried.timeout_s(100.0, endpoints=3) == 5.0
    assert tried.timeout_s(108.8, endpoints=3) == pytest.approx(1.0)
    assert tried.timeout_s(109.5, endpoints=3) == pytest.approx(0.5)
    assert tried.timeout_s(111.0, endpoints=3) > 0


def test_the_error_is_true_of_all_attempts() -> None:
    tried = attempts()
    tried.failed(100.0, LOST, contact=True, fresh=True)
    with pytest.raises(dfs.OutcomeUnknown, match="earlier attempt may succeed yet") as caught:
        tried.failed(110.0, AWAY, contact=True, fresh=True)
    assert caught.value.metadata["request_id"] == (b"i" * 16).hex()
    reading = attempts(write=False)
    reading.failed(100.0, LOST, contact=True, fresh=True)
    with pytest.raises(dfs.Unavailable, match=r"^away$"):
        reading.failed(110.0, AWAY, contact=True, fresh=True)


def test_an_id_that_history_has_forgotten_says_nothing_of_earlier_attempts() -> None:
    forgotten = Fault(dfs.RequestTooOld("older than history"), 0.0, True)
    with pytest.raises(dfs.RequestTooOld):
        attempts().failed(100.0, forgotten, contact=True, fresh=True)
    tried = attempts()
    tried.failed(100.0, LOST, contact=True, fresh=True)
    with pytest.raises(dfs.OutcomeUnknown, match="older than history; an earlier attempt may"):
        tried.failed(101.0, forgotten, contact=True, fresh=True)


@pytest.mark.parametrize("refusal", [
    dfs.Conflict("at 7"), dfs.NotFound("x"), dfs.OutOfSpace("full"), dfs.DataLoss("condemned"),
])
def test_a_refusal_after_a_lost_attempt_is_no_last_word(refusal: dfs.DfsError) -> None:
    """The lost one may have been done before the disk of the next node was full, or be on its way,
    and be done when the key is what it asks for again."""
    with pytest.raises(type(refusal)):
        attempts().failed(100.0, Fault(refusal, 0.0, True), contact=True, fresh=True)
    tried = attempts()
    tried.failed(100.0, LOST, contact=True, fresh=True)
    with pytest.raises(dfs.OutcomeUnknown):
        tried.failed(101.0, Fault(refusal, 0.0, True), contact=True, fresh=True)
    tried = attempts()
    tried.failed(100.0, LOST, contact=True, fresh=True)
    wrong = Fault(dfs.InvalidArgument("never possible"), 0.0, True)
    with pytest.raises(dfs.InvalidArgument):
        tried.failed(101.0, wrong, contact=True, fresh=True)


def test_a_client_that_never_met_a_node_gives_up_soon() -> None:
    tried = attempts(60.0)
    tried.failed(100.5, AWAY, contact=False, fresh=False)
    with pytest.raises(dfs.Unavailable):
        tried.failed(101.1, AWAY, contact=False, fresh=False)
    assert attempts(60.0).failed(101.1, AWAY, contact=True, fresh=False) < 1


def test_endpoints() -> None:
    assert target("node1") == "node1:13000"
    assert target("[::1]:5") == "[::1]:5"
    assert target(":5") == "localhost:5"
    assert target("unix:/a/b") == "unix:/a/b"
    with pytest.raises(dfs.InvalidArgument, match="endpoint"):
        target("http://x")


def test_what_is_learned_comes_behind_what_was_given() -> None:
    session = Session(["a:1"], 1.0, True)
    assert session.learn(members("b:1", "c:1")) == []
    assert session.endpoints == ["a:1", "b:1", "c:1"]
    session.failed("a:1", AWAY, 0.0)
    assert session.current() == "b:1"
    session.failed("a:1", AWAY, 0.0)
    assert session.current() == "b:1"
    assert session.learn(members("c:1", "d:1")) == []
    assert session.endpoints == ["a:1", "c:1", "d:1", "b:1"]
    assert session.current() == "b:1"
    session.failed("b:1", AWAY, 0.0)
    assert session.learn(members("c:1", "d:1")) == ["b:1"]


def members(*endpoints: str, config: int = 0, cluster: bytes = b"") -> pb.MembersResponse:
    found = [pb.Member(grpc=e) for e in endpoints]
    return pb.MembersResponse(members=found, config=config, cluster=cluster)


def test_an_older_lesson_than_the_last_is_not_believed() -> None:
    """A node that was removed, or is behind, knows members that are none any more."""
    session = Session(["a:1"], 1.0, True)
    session.learn(members("b:1", config=20))
    assert session.learn(members("c:1", config=10)) == []
    assert session.endpoints == ["a:1", "b:1"]
    session.learn(members("d:1", config=20))
    assert session.endpoints == ["a:1", "d:1"]
    session.learn(members("e:1", config=1, cluster=b"restored"))
    assert session.endpoints == ["a:1", "e:1"]


def test_a_failure_is_a_reason_to_ask_who_the_members_are() -> None:
    session = Session(["a:1", "b:1"], 1.0, True)
    said = Fault(dfs.Unavailable("a was removed"), 0.0, True)
    assert not session.failed("a:1", AWAY, 1.0), "nobody is there to be asked"
    assert session.failed("b:1", said, 1.1), "it is there, and may know others"
    assert not session.failed("a:1", said, 1.2), "not again and again"
    assert session.failed("a:1", said, 3.0)
    for now_s, asks in ((3.5, False), (3.6, False), (3.7, False), (33.1, True), (33.2, False)):
        assert session.answered(1, now_s) == asks
    session.failed("a:1", AWAY, 35.0)
    assert session.answered(1, 35.1), "whoever is gone may have been replaced"
    assert not Session(["a:1"], 1.0, False).failed("a:1", said, 1.0)


def test_request_ids_are_ordered_by_time() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(bytes=uuid7())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000
    assert len({uuid7() for _ in range(1000)}) == 1000
