"""What both clients remember between calls: endpoints, the last revision seen, channel options.

No sockets here. All methods may be called from any thread.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from ..config import join_address, split_address
from ..errors import InvalidArgument
from ..limits import (
    CLIENT_ANSWER_BYTES_MAX,
    CLIENT_BACKOFF_MS_MAX,
    CLIENT_KEEPALIVE_MS,
    CLIENT_KEEPALIVE_MS_MAX,
    CLIENT_LEARN_INTERVAL_MS,
    DEADLINE_MS_DEFAULT,
    GRPC_PORT,
    MESSAGE_BYTES_MAX,
)
from ..proto import dfs_pb2 as pb
from .calls import Call, uuid7
from .faults import LOST, Attempts, Fault

TIMEOUT_S: Final = DEADLINE_MS_DEFAULT / 1000
CALLS_BEFORE_LEARNING: Final = 2
"""A program that makes one call and ends, as the command line does, asks for nothing else."""

CHANNEL_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", CLIENT_ANSWER_BYTES_MAX),
    ("grpc.keepalive_time_ms", CLIENT_KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", CLIENT_KEEPALIVE_MS_MAX),
    ("grpc.http2.max_pings_without_data", 0),
    # A node that comes back is found at once; the clients do their own backing off.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Each client has connections of its own, and none through a proxy for web pages.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


def channel_options(endpoint: str) -> tuple[tuple[str, int | str], ...]:
    """Of a channel to an endpoint in the form that `target` gives."""
    if endpoint.startswith("unix:"):
        # gRPC would send the path, which is no authority for a strict HTTP/2 server.
        return (*CHANNEL_OPTIONS, ("grpc.default_authority", "localhost"))
    return CHANNEL_OPTIONS


def target(endpoint: str) -> str:
    """What gRPC calls an endpoint: "host", "host:port" or "unix:/path"."""
    if endpoint.startswith("unix:"):
        return endpoint
    try:
        host, port = split_address(endpoint, GRPC_PORT)
    except ValueError as error:
        raise InvalidArgument(f"endpoint {error}") from None
    return join_address(host or "localhost", port)


class Session:
    """State of one client."""

    def __init__(
        self, endpoints: Iterable[str], timeout_s: float, learn: bool,
        chance: random.Random | None = None, new_id: Callable[[], bytes] = uuid7,
    ) -> None:
        self._seeds = list(dict.fromkeys(target(e) for e in endpoints)) or [target("localhost")]
        self.timeout_s, self.learns = timeout_s, learn
        self._all = list(self._seeds)
        self._current = 0
        self._lock = threading.Lock()
        self._seen = 0
        self._calls = 0
        self._learn_at_s = 0.0
        self._learned_s = -math.inf
        self._cluster, self._config = b"", 0
        self.chance = chance or random.Random()
        """For pauses that are not the same for all clients."""
        self._new_id = new_id
        self.contact = False
        """A node has answered at some time."""

    @property
    def seeds(self) -> list[str]:
        """The endpoints that the user gave."""
        return list(self._seeds)

    @property
    def endpoints(self) -> list[str]:
        """All endpoints known, those given first."""
        return list(self._all)

    def current(self) -> str:
        """The endpoint for the next attempt: the last one that worked."""
        return self._all[self._current]

    def failed(self, endpoint: str, why: Fault, now_s: float) -> bool:
        """Go on to the next one if it is the node that failed, unless somebody already has.

        True when that node should be asked for the members all the same: one that was removed, or
        knows no leader, may know nodes that this client has not heard of.
        """
        self.contact = self.contact or why.answered
        if not isinstance(why.error, LOST) and not why.error.row.retry:
            return False
        with self._lock:
            if self._all[self._current] == endpoint:
                self._current = (self._current + 1) % len(self._all)
            # Whoever goes away may have been replaced: the next answer is a reason to ask.
            soonest_s = self._learned_s + CLIENT_BACKOFF_MS_MAX / 1000
            self._learn_at_s = min(self._learn_at_s, max(now_s, soonest_s))
            if not (self.learns and why.answered) or now_s < soonest_s:
                return False
            self._asks(now_s)
            return True

    def answered(self, revision: int, now_s: float) -> bool:
        """Notes an answer and the revision it shows; True when it is time to ask for members."""
        self.contact = True
        with self._lock:
            if revision > self._seen:
                self._seen = revision
            self._calls += 1
            if not self.learns or self._calls < CALLS_BEFORE_LEARNING or now_s < self._learn_at_s:
                return False
            self._asks(now_s)
            return True

    def _asks(self, now_s: float) -> None:
        self._learned_s = now_s
        self._learn_at_s = now_s + CLIENT_LEARN_INTERVAL_MS / 1000

    def learn(self, answer: pb.MembersResponse) -> list[str]:
        """Replaces what was learned before, unless that was newer; returns the endpoints that are
        gone."""
        found = [target(m.grpc) for m in answer.members if m.grpc]
        with self._lock:
            if answer.cluster == self._cluster and answer.config < self._config:
                return []  # of a node that was removed, or is behind
            self._cluster, self._config = answer.cluster, answer.config
            before, current = self._all, self._all[self._current]
            # One in use stays until it fails or the next lesson.
            self._all = list(dict.fromkeys([*self._seeds, *found, current]))
            self._current = self._all.index(current)
            return [endpoint for endpoint in before if endpoint not in self._all]

    def least(self, local: bool, min_revision: int | None) -> int:
        """The revision that a read must show: what this client has seen, if the read is local.

        A linearizable read shows that anyway.
        """
        return min_revision if min_revision is not None else self._seen if local else 0

    def id_of(self, given: bytes | None) -> bytes:
        """The id of a write: its caller's, or a fresh one."""
        return self._new_id() if given is None else given

    def attempts(self, call: Call[Any], timeout_s: float | None, now_s: float) -> Attempts:
        """The way of a call that begins now."""
        return Attempts(
            now_s, self.timeout_s if timeout_s is None else timeout_s, write=call.write,
            repeatable=call.repeatable, request_id=call.request_id, chance=self.chance,
        )
