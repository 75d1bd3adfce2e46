"""The grpcio server on the node's unix socket: services, reflection, health.

The engine's public port forwards every call to it that is not one of FileService's.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ..errors import Misconfigured
from ..limits import (
    CALLS_WAITING_MAX,
    DRAIN_MS_MAX,
    MESSAGE_BYTES_MAX,
    METADATA_BYTES_MAX,
    READY_INTERVAL_MS,
    STREAMS_PER_CONNECTION_MAX,
    WATCHES_MAX,
)
from . import cluster, files, hot, streams

log = logging.getLogger("dfs.server")

OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    # Room for our own refusal, which names limit and knob, of what is a little too large.
    ("grpc.max_receive_message_length", 2 * MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", 2 * MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    # The engine's port forwards the calls of all its connections over few.
    ("grpc.max_concurrent_streams", WATCHES_MAX + STREAMS_PER_CONNECTION_MAX),
    # Calls that Python has not looked at. From the first figure on some, from the second all end
    # as CANCELLED, though nobody did; those that their callers did cancel count, too.
    ("grpc.server.max_pending_requests", CALLS_WAITING_MAX),
    ("grpc.server.max_pending_requests_hard_limit", 2 * CALLS_WAITING_MAX),
)
LEADER: Final = "dfs.Leader"


class Served(streams.Files, cluster.Cluster, Protocol):
    """What the server needs of a node."""

    def ready(self) -> bool:
        """It can serve."""

    def leads(self) -> bool:
        """It is the leader."""


@asynccontextmanager
async def serving(node: Served, path: Path) -> AsyncIterator[None]:
    """Serves `node` on a unix socket at `path`, which only this user may open."""
    server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_WAITING_MAX)
    server.add_generic_rpc_handlers(
        (files.FileService(node).handler(), cluster.ClusterService(node).handler())
    )
    states = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    names = (hot.SERVICE, cluster.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    _listen(server, path)
    await server.start()
    watching = asyncio.create_task(_tell_health(node, states))
    try:
        yield
    finally:
        watching.cancel()
        await states.enter_graceful_shutdown()
        await server.stop(DRAIN_MS_MAX / 1000)
        _unlink(path)


def _listen(server: grpc.aio.Server, path: Path) -> None:
    _unlink(path)
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path.absolute()}")
    except RuntimeError as error:
        raise Misconfigured(f"the socket {path} cannot be opened: {error}") from None
    finally:
        os.umask(mask)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _tell_health(node: Served, states: "health.aio.HealthServicer") -> None:
    answers = health_pb2.HealthCheckResponse
    while True:
        ready, leads = node.ready(), node.leads()
        for service, good in (("", ready), (hot.SERVICE, ready), (LEADER, ready and leads)):
            await states.set(service, answers.SERVING if good else answers.NOT_SERVING)
        await asyncio.sleep(READY_INTERVAL_MS / 1000)
