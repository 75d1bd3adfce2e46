"""The node: one hot thread between engine and store, one asyncio thread for all the rest.

It knows neither protobuf nor gRPC: what a request means comes from outside (`Codec`).
"""

from .hot import EXIT_CODE_STATE, stop_process, unexpected
from .node import Node, recover
from .ports import Behind, Call, Codec, Engine, Failure, Myself, Refused, Result
from .streams import Streaming, Write
from .watch import Item, Update

__all__ = [
    "EXIT_CODE_STATE",
    "Behind",
    "Call",
    "Codec",
    "Engine",
    "Failure",
    "Item",
    "Myself",
    "Node",
    "Refused",
    "Result",
    "Streaming",
    "Update",
    "Write",
    "recover",
    "stop_process",
    "unexpected",
]
