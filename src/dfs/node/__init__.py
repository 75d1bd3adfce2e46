"""The node: one hot thread between engine and store, one asyncio thread for all the rest.

It knows neither protobuf nor gRPC: what a request means comes from outside (`Codec`).
"""

from .contents import Contents, check_space
from .hot import EXIT_CODE_STATE, stop_process, unexpected
from .keeping import StateFault
from .node import Node
from .ports import (
    Behind,
    Call,
    Codec,
    Engine,
    Failure,
    Myself,
    Refused,
    Result,
    Update,
)
from .streams import Caller, Mailboxes, Streaming
from .watch import Wanted

__all__ = [
    "EXIT_CODE_STATE",
    "Behind",
    "Call",
    "Caller",
    "Codec",
    "Contents",
    "Engine",
    "Failure",
    "Mailboxes",
    "Myself",
    "Node",
    "Refused",
    "Result",
    "StateFault",
    "Streaming",
    "Update",
    "Wanted",
    "check_space",
    "stop_process",
    "unexpected",
]
