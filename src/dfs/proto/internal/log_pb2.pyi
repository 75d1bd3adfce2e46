from dfs.proto import dfs_pb2 as _dfs_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Entry(_message.Message):
    __slots__ = ("format", "time_ns", "node", "principal", "sha256", "put", "delete", "make_dir", "symlink", "set_floor", "put_content", "move", "copy", "transaction")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    MAKE_DIR_FIELD_NUMBER: _ClassVar[int]
    SYMLINK_FIELD_NUMBER: _ClassVar[int]
    SET_FLOOR_FIELD_NUMBER: _ClassVar[int]
    PUT_CONTENT_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    COPY_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    format: int
    time_ns: int
    node: str
    principal: str
    sha256: bytes
    put: _dfs_pb2.PutRequest
    delete: _dfs_pb2.DeleteRequest
    make_dir: _dfs_pb2.MakeDirRequest
    symlink: _dfs_pb2.SymlinkRequest
    set_floor: SetFloor
    put_content: _dfs_pb2.PutContentRequest
    move: _dfs_pb2.MoveRequest
    copy: _dfs_pb2.CopyRequest
    transaction: _dfs_pb2.TransactionRequest
    def __init__(self, format: _Optional[int] = ..., time_ns: _Optional[int] = ..., node: _Optional[str] = ..., principal: _Optional[str] = ..., sha256: _Optional[bytes] = ..., put: _Optional[_Union[_dfs_pb2.PutRequest, _Mapping]] = ..., delete: _Optional[_Union[_dfs_pb2.DeleteRequest, _Mapping]] = ..., make_dir: _Optional[_Union[_dfs_pb2.MakeDirRequest, _Mapping]] = ..., symlink: _Optional[_Union[_dfs_pb2.SymlinkRequest, _Mapping]] = ..., set_floor: _Optional[_Union[SetFloor, _Mapping]] = ..., put_content: _Optional[_Union[_dfs_pb2.PutContentRequest, _Mapping]] = ..., move: _Optional[_Union[_dfs_pb2.MoveRequest, _Mapping]] = ..., copy: _Optional[_Union[_dfs_pb2.CopyRequest, _Mapping]] = ..., transaction: _Optional[_Union[_dfs_pb2.TransactionRequest, _Mapping]] = ...) -> None: ...

class SetFloor(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...
