from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FILE: _ClassVar[Kind]
    DIRECTORY: _ClassVar[Kind]
    SYMLINK: _ClassVar[Kind]

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINEARIZABLE: _ClassVar[Consistency]
    LOCAL: _ClassVar[Consistency]
FILE: Kind
DIRECTORY: Kind
SYMLINK: Kind
LINEARIZABLE: Consistency
LOCAL: Consistency

class Record(_message.Message):
    __slots__ = ("kind", "revision", "created_revision", "version", "size", "sha256", "mode", "mtime_ns", "target", "node", "principal", "time_ns", "request_id", "implicit", "children", "chunk_bytes", "uid", "gid", "xattrs")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATED_REVISION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    IMPLICIT_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    XATTRS_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    revision: int
    created_revision: int
    version: int
    size: int
    sha256: bytes
    mode: int
    mtime_ns: int
    target: str
    node: str
    principal: str
    time_ns: int
    request_id: bytes
    implicit: bool
    children: int
    chunk_bytes: int
    uid: int
    gid: int
    xattrs: _containers.RepeatedCompositeFieldContainer[Xattr]
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., revision: _Optional[int] = ..., created_revision: _Optional[int] = ..., version: _Optional[int] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ..., mode: _Optional[int] = ..., mtime_ns: _Optional[int] = ..., target: _Optional[str] = ..., node: _Optional[str] = ..., principal: _Optional[str] = ..., time_ns: _Optional[int] = ..., request_id: _Optional[bytes] = ..., implicit: _Optional[bool] = ..., children: _Optional[int] = ..., chunk_bytes: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., xattrs: _Optional[_Iterable[_Union[Xattr, _Mapping]]] = ...) -> None: ...

class Xattr(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: bytes
    def __init__(self, name: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class Metadata(_message.Message):
    __slots__ = ("mode", "mtime_ns", "uid", "gid", "xattrs", "no_xattrs")
    MODE_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    XATTRS_FIELD_NUMBER: _ClassVar[int]
    NO_XATTRS_FIELD_NUMBER: _ClassVar[int]
    mode: int
    mtime_ns: int
    uid: int
    gid: int
    xattrs: _containers.RepeatedCompositeFieldContainer[Xattr]
    no_xattrs: bool
    def __init__(self, mode: _Optional[int] = ..., mtime_ns: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., xattrs: _Optional[_Iterable[_Union[Xattr, _Mapping]]] = ..., no_xattrs: _Optional[bool] = ...) -> None: ...

class PutRequest(_message.Message):
    __slots__ = ("key", "data", "metadata", "base_revision", "request_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    key: str
    data: bytes
    metadata: Metadata
    base_revision: int
    request_id: bytes
    def __init__(self, key: _Optional[str] = ..., data: _Optional[bytes] = ..., metadata: _Optional[_Union[Metadata, _Mapping]] = ..., base_revision: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class PutResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class UploadRequest(_message.Message):
    __slots__ = ("head", "data")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    head: UploadHead
    data: bytes
    def __init__(self, head: _Optional[_Union[UploadHead, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadHead(_message.Message):
    __slots__ = ("key", "size", "metadata", "base_revision", "request_id", "sha256", "hold_for", "digests")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    HOLD_FOR_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    key: str
    size: int
    metadata: Metadata
    base_revision: int
    request_id: bytes
    sha256: bytes
    hold_for: str
    digests: bytes
    def __init__(self, key: _Optional[str] = ..., size: _Optional[int] = ..., metadata: _Optional[_Union[Metadata, _Mapping]] = ..., base_revision: _Optional[int] = ..., request_id: _Optional[bytes] = ..., sha256: _Optional[bytes] = ..., hold_for: _Optional[str] = ..., digests: _Optional[bytes] = ...) -> None: ...

class UploadResponse(_message.Message):
    __slots__ = ("received", "held", "voters", "revision", "content", "chunks")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    received: int
    held: int
    voters: int
    revision: int
    content: PutContentRequest
    chunks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, received: _Optional[int] = ..., held: _Optional[int] = ..., voters: _Optional[int] = ..., revision: _Optional[int] = ..., content: _Optional[_Union[PutContentRequest, _Mapping]] = ..., chunks: _Optional[_Iterable[int]] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("key", "revision", "consistency", "min_revision", "offset", "length")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    key: str
    revision: int
    consistency: Consistency
    min_revision: int
    offset: int
    length: int
    def __init__(self, key: _Optional[str] = ..., revision: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., min_revision: _Optional[int] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class DownloadResponse(_message.Message):
    __slots__ = ("record", "data")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    record: Record
    data: bytes
    def __init__(self, record: _Optional[_Union[Record, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PutContentRequest(_message.Message):
    __slots__ = ("key", "sha256", "metadata", "base_revision", "request_id", "size", "chunk_bytes", "digests", "incoming")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    INCOMING_FIELD_NUMBER: _ClassVar[int]
    key: str
    sha256: bytes
    metadata: Metadata
    base_revision: int
    request_id: bytes
    size: int
    chunk_bytes: int
    digests: bytes
    incoming: str
    def __init__(self, key: _Optional[str] = ..., sha256: _Optional[bytes] = ..., metadata: _Optional[_Union[Metadata, _Mapping]] = ..., base_revision: _Optional[int] = ..., request_id: _Optional[bytes] = ..., size: _Optional[int] = ..., chunk_bytes: _Optional[int] = ..., digests: _Optional[bytes] = ..., incoming: _Optional[str] = ...) -> None: ...

class PutContentResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class HaveContentRequest(_message.Message):
    __slots__ = ("sha256", "wait_ms", "chunk", "manifest")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    wait_ms: int
    chunk: int
    manifest: bool
    def __init__(self, sha256: _Optional[bytes] = ..., wait_ms: _Optional[int] = ..., chunk: _Optional[int] = ..., manifest: _Optional[bool] = ...) -> None: ...

class HaveContentResponse(_message.Message):
    __slots__ = ("here", "received", "size", "chunk_here", "chunk_bytes", "digests")
    HERE_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_HERE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    here: bool
    received: int
    size: int
    chunk_here: bool
    chunk_bytes: int
    digests: bytes
    def __init__(self, here: _Optional[bool] = ..., received: _Optional[int] = ..., size: _Optional[int] = ..., chunk_here: _Optional[bool] = ..., chunk_bytes: _Optional[int] = ..., digests: _Optional[bytes] = ...) -> None: ...

class KeepContentsRequest(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, sha256: _Optional[_Iterable[bytes]] = ...) -> None: ...

class KeepContentsResponse(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, sha256: _Optional[_Iterable[bytes]] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("key", "revision", "consistency", "min_revision")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    key: str
    revision: int
    consistency: Consistency
    min_revision: int
    def __init__(self, key: _Optional[str] = ..., revision: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., min_revision: _Optional[int] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("data", "record")
    DATA_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    record: Record
    def __init__(self, data: _Optional[bytes] = ..., record: _Optional[_Union[Record, _Mapping]] = ...) -> None: ...

class StatRequest(_message.Message):
    __slots__ = ("key", "revision", "consistency", "min_revision")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    key: str
    revision: int
    consistency: Consistency
    min_revision: int
    def __init__(self, key: _Optional[str] = ..., revision: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., min_revision: _Optional[int] = ...) -> None: ...

class StatResponse(_message.Message):
    __slots__ = ("record",)
    RECORD_FIELD_NUMBER: _ClassVar[int]
    record: Record
    def __init__(self, record: _Optional[_Union[Record, _Mapping]] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("key", "recursive", "base_revision", "request_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    key: str
    recursive: bool
    base_revision: int
    request_id: bytes
    def __init__(self, key: _Optional[str] = ..., recursive: _Optional[bool] = ..., base_revision: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("revision", "deleted")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    revision: int
    deleted: int
    def __init__(self, revision: _Optional[int] = ..., deleted: _Optional[int] = ...) -> None: ...

class MakeDirRequest(_message.Message):
    __slots__ = ("key", "metadata", "request_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    key: str
    metadata: Metadata
    request_id: bytes
    def __init__(self, key: _Optional[str] = ..., metadata: _Optional[_Union[Metadata, _Mapping]] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class MakeDirResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class SymlinkRequest(_message.Message):
    __slots__ = ("key", "target", "metadata", "base_revision", "request_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    key: str
    target: str
    metadata: Metadata
    base_revision: int
    request_id: bytes
    def __init__(self, key: _Optional[str] = ..., target: _Optional[str] = ..., metadata: _Optional[_Union[Metadata, _Mapping]] = ..., base_revision: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class SymlinkResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class MoveRequest(_message.Message):
    __slots__ = ("source", "target", "base_revision", "request_id", "replace")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    base_revision: int
    request_id: bytes
    replace: bool
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., base_revision: _Optional[int] = ..., request_id: _Optional[bytes] = ..., replace: _Optional[bool] = ...) -> None: ...

class MoveResponse(_message.Message):
    __slots__ = ("revision", "moved")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    revision: int
    moved: int
    def __init__(self, revision: _Optional[int] = ..., moved: _Optional[int] = ...) -> None: ...

class CopyRequest(_message.Message):
    __slots__ = ("source", "target", "base_revision", "request_id", "replace", "recursive")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    base_revision: int
    request_id: bytes
    replace: bool
    recursive: bool
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., base_revision: _Optional[int] = ..., request_id: _Optional[bytes] = ..., replace: _Optional[bool] = ..., recursive: _Optional[bool] = ...) -> None: ...

class CopyResponse(_message.Message):
    __slots__ = ("revision", "copied")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COPIED_FIELD_NUMBER: _ClassVar[int]
    revision: int
    copied: int
    def __init__(self, revision: _Optional[int] = ..., copied: _Optional[int] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("put", "delete", "make_dir", "symlink", "move", "copy", "put_content")
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    MAKE_DIR_FIELD_NUMBER: _ClassVar[int]
    SYMLINK_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    COPY_FIELD_NUMBER: _ClassVar[int]
    PUT_CONTENT_FIELD_NUMBER: _ClassVar[int]
    put: PutRequest
    delete: DeleteRequest
    make_dir: MakeDirRequest
    symlink: SymlinkRequest
    move: MoveRequest
    copy: CopyRequest
    put_content: PutContentRequest
    def __init__(self, put: _Optional[_Union[PutRequest, _Mapping]] = ..., delete: _Optional[_Union[DeleteRequest, _Mapping]] = ..., make_dir: _Optional[_Union[MakeDirRequest, _Mapping]] = ..., symlink: _Optional[_Union[SymlinkRequest, _Mapping]] = ..., move: _Optional[_Union[MoveRequest, _Mapping]] = ..., copy: _Optional[_Union[CopyRequest, _Mapping]] = ..., put_content: _Optional[_Union[PutContentRequest, _Mapping]] = ...) -> None: ...

class TransactionRequest(_message.Message):
    __slots__ = ("operations", "request_id")
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    request_id: bytes
    def __init__(self, operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class TransactionResponse(_message.Message):
    __slots__ = ("revision", "changes")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    revision: int
    changes: int
    def __init__(self, revision: _Optional[int] = ..., changes: _Optional[int] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("key", "record", "data", "has_data")
    KEY_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    HAS_DATA_FIELD_NUMBER: _ClassVar[int]
    key: str
    record: Record
    data: bytes
    has_data: bool
    def __init__(self, key: _Optional[str] = ..., record: _Optional[_Union[Record, _Mapping]] = ..., data: _Optional[bytes] = ..., has_data: _Optional[bool] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("key", "revision", "time_ns", "consistency", "min_revision", "recursive", "limit", "after", "data_bytes_max")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    DATA_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    key: str
    revision: int
    time_ns: int
    consistency: Consistency
    min_revision: int
    recursive: bool
    limit: int
    after: str
    data_bytes_max: int
    def __init__(self, key: _Optional[str] = ..., revision: _Optional[int] = ..., time_ns: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., min_revision: _Optional[int] = ..., recursive: _Optional[bool] = ..., limit: _Optional[int] = ..., after: _Optional[str] = ..., data_bytes_max: _Optional[int] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("items", "revision")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    revision: int
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., revision: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("key", "after_revision", "snapshot", "data_bytes_max", "progress_ms", "data_after_revision")
    KEY_FIELD_NUMBER: _ClassVar[int]
    AFTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    DATA_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_MS_FIELD_NUMBER: _ClassVar[int]
    DATA_AFTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    key: str
    after_revision: int
    snapshot: bool
    data_bytes_max: int
    progress_ms: int
    data_after_revision: int
    def __init__(self, key: _Optional[str] = ..., after_revision: _Optional[int] = ..., snapshot: _Optional[bool] = ..., data_bytes_max: _Optional[int] = ..., progress_ms: _Optional[int] = ..., data_after_revision: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("type", "key", "record", "revision", "previous_revision", "data", "has_data", "sub")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PUT: _ClassVar[Event.Type]
        DELETE: _ClassVar[Event.Type]
    PUT: Event.Type
    DELETE: Event.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_REVISION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    HAS_DATA_FIELD_NUMBER: _ClassVar[int]
    SUB_FIELD_NUMBER: _ClassVar[int]
    type: Event.Type
    key: str
    record: Record
    revision: int
    previous_revision: int
    data: bytes
    has_data: bool
    sub: int
    def __init__(self, type: _Optional[_Union[Event.Type, str]] = ..., key: _Optional[str] = ..., record: _Optional[_Union[Record, _Mapping]] = ..., revision: _Optional[int] = ..., previous_revision: _Optional[int] = ..., data: _Optional[bytes] = ..., has_data: _Optional[bool] = ..., sub: _Optional[int] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("items", "snapshot_end", "events", "revision", "gap_floor")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_END_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    GAP_FLOOR_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    snapshot_end: bool
    events: _containers.RepeatedCompositeFieldContainer[Event]
    revision: int
    gap_floor: int
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., snapshot_end: _Optional[bool] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., revision: _Optional[int] = ..., gap_floor: _Optional[int] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("key", "consistency", "min_revision", "limit", "before_revision")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_REVISION_FIELD_NUMBER: _ClassVar[int]
    key: str
    consistency: Consistency
    min_revision: int
    limit: int
    before_revision: int
    def __init__(self, key: _Optional[str] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., min_revision: _Optional[int] = ..., limit: _Optional[int] = ..., before_revision: _Optional[int] = ...) -> None: ...

class HistoryResponse(_message.Message):
    __slots__ = ("events", "floor")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    floor: int
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., floor: _Optional[int] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("name", "id", "raft", "grpc", "voter", "leader", "silent")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    RAFT_FIELD_NUMBER: _ClassVar[int]
    GRPC_FIELD_NUMBER: _ClassVar[int]
    VOTER_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    SILENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: int
    raft: str
    grpc: str
    voter: bool
    leader: bool
    silent: bool
    def __init__(self, name: _Optional[str] = ..., id: _Optional[int] = ..., raft: _Optional[str] = ..., grpc: _Optional[str] = ..., voter: _Optional[bool] = ..., leader: _Optional[bool] = ..., silent: _Optional[bool] = ...) -> None: ...

class MembersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MembersResponse(_message.Message):
    __slots__ = ("members", "cluster", "config")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    cluster: bytes
    config: int
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., cluster: _Optional[bytes] = ..., config: _Optional[int] = ...) -> None: ...

class AgentStatus(_message.Message):
    __slots__ = ("cache", "mount", "mount_mode", "revision", "pending_drops", "cached_bytes", "problems", "files")
    CACHE_FIELD_NUMBER: _ClassVar[int]
    MOUNT_FIELD_NUMBER: _ClassVar[int]
    MOUNT_MODE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PENDING_DROPS_FIELD_NUMBER: _ClassVar[int]
    CACHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    cache: str
    mount: str
    mount_mode: str
    revision: int
    pending_drops: int
    cached_bytes: int
    problems: _containers.RepeatedScalarFieldContainer[str]
    files: int
    def __init__(self, cache: _Optional[str] = ..., mount: _Optional[str] = ..., mount_mode: _Optional[str] = ..., revision: _Optional[int] = ..., pending_drops: _Optional[int] = ..., cached_bytes: _Optional[int] = ..., problems: _Optional[_Iterable[str]] = ..., files: _Optional[int] = ...) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("member", "role", "term", "applied", "committed", "last_log", "floor", "keys", "bytes", "state_hash", "version", "last_contact_ms", "error", "agent", "leader", "cpu_us", "rss_bytes", "verified", "contents", "contents_missing", "contents_bytes", "disk_free_bytes", "transfer_rate", "contents_lost")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    LAST_LOG_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    STATE_HASH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LAST_CONTACT_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    CPU_US_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_MISSING_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_RATE_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_LOST_FIELD_NUMBER: _ClassVar[int]
    member: Member
    role: str
    term: int
    applied: int
    committed: int
    last_log: int
    floor: int
    keys: int
    bytes: int
    state_hash: bytes
    version: str
    last_contact_ms: int
    error: str
    agent: AgentStatus
    leader: str
    cpu_us: int
    rss_bytes: int
    verified: int
    contents: int
    contents_missing: int
    contents_bytes: int
    disk_free_bytes: int
    transfer_rate: int
    contents_lost: int
    def __init__(self, member: _Optional[_Union[Member, _Mapping]] = ..., role: _Optional[str] = ..., term: _Optional[int] = ..., applied: _Optional[int] = ..., committed: _Optional[int] = ..., last_log: _Optional[int] = ..., floor: _Optional[int] = ..., keys: _Optional[int] = ..., bytes: _Optional[int] = ..., state_hash: _Optional[bytes] = ..., version: _Optional[str] = ..., last_contact_ms: _Optional[int] = ..., error: _Optional[str] = ..., agent: _Optional[_Union[AgentStatus, _Mapping]] = ..., leader: _Optional[str] = ..., cpu_us: _Optional[int] = ..., rss_bytes: _Optional[int] = ..., verified: _Optional[int] = ..., contents: _Optional[int] = ..., contents_missing: _Optional[int] = ..., contents_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., transfer_rate: _Optional[int] = ..., contents_lost: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("local",)
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    local: bool
    def __init__(self, local: _Optional[bool] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("nodes", "cluster", "config")
    NODES_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeStatus]
    cluster: bytes
    config: int
    def __init__(self, nodes: _Optional[_Iterable[_Union[NodeStatus, _Mapping]]] = ..., cluster: _Optional[bytes] = ..., config: _Optional[int] = ...) -> None: ...

class MembershipStage(_message.Message):
    __slots__ = ("when", "members", "voters", "may_fail", "spare")
    WHEN_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    MAY_FAIL_FIELD_NUMBER: _ClassVar[int]
    SPARE_FIELD_NUMBER: _ClassVar[int]
    when: str
    members: _containers.RepeatedCompositeFieldContainer[Member]
    voters: int
    may_fail: int
    spare: int
    def __init__(self, when: _Optional[str] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., voters: _Optional[int] = ..., may_fail: _Optional[int] = ..., spare: _Optional[int] = ...) -> None: ...

class MembershipPlan(_message.Message):
    __slots__ = ("summary", "config", "stages", "warnings", "leader_moves", "nothing")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    LEADER_MOVES_FIELD_NUMBER: _ClassVar[int]
    NOTHING_FIELD_NUMBER: _ClassVar[int]
    summary: str
    config: int
    stages: _containers.RepeatedCompositeFieldContainer[MembershipStage]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    leader_moves: bool
    nothing: bool
    def __init__(self, summary: _Optional[str] = ..., config: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[MembershipStage, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ..., leader_moves: _Optional[bool] = ..., nothing: _Optional[bool] = ...) -> None: ...

class AddMemberRequest(_message.Message):
    __slots__ = ("name", "id", "raft", "grpc", "promote", "dry_run", "if_config")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    RAFT_FIELD_NUMBER: _ClassVar[int]
    GRPC_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    IF_CONFIG_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: int
    raft: str
    grpc: str
    promote: bool
    dry_run: bool
    if_config: int
    def __init__(self, name: _Optional[str] = ..., id: _Optional[int] = ..., raft: _Optional[str] = ..., grpc: _Optional[str] = ..., promote: _Optional[bool] = ..., dry_run: _Optional[bool] = ..., if_config: _Optional[int] = ...) -> None: ...

class AddMemberResponse(_message.Message):
    __slots__ = ("cluster", "plan", "config")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    cluster: bytes
    plan: MembershipPlan
    config: int
    def __init__(self, cluster: _Optional[bytes] = ..., plan: _Optional[_Union[MembershipPlan, _Mapping]] = ..., config: _Optional[int] = ...) -> None: ...

class PromoteMemberRequest(_message.Message):
    __slots__ = ("name", "id", "dry_run", "if_config")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    IF_CONFIG_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: int
    dry_run: bool
    if_config: int
    def __init__(self, name: _Optional[str] = ..., id: _Optional[int] = ..., dry_run: _Optional[bool] = ..., if_config: _Optional[int] = ...) -> None: ...

class PromoteMemberResponse(_message.Message):
    __slots__ = ("plan", "config")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    plan: MembershipPlan
    config: int
    def __init__(self, plan: _Optional[_Union[MembershipPlan, _Mapping]] = ..., config: _Optional[int] = ...) -> None: ...

class RemoveMemberRequest(_message.Message):
    __slots__ = ("name", "id", "dry_run", "if_config")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    IF_CONFIG_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: int
    dry_run: bool
    if_config: int
    def __init__(self, name: _Optional[str] = ..., id: _Optional[int] = ..., dry_run: _Optional[bool] = ..., if_config: _Optional[int] = ...) -> None: ...

class RemoveMemberResponse(_message.Message):
    __slots__ = ("plan", "config")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    plan: MembershipPlan
    config: int
    def __init__(self, plan: _Optional[_Union[MembershipPlan, _Mapping]] = ..., config: _Optional[int] = ...) -> None: ...

class ReplaceMemberRequest(_message.Message):
    __slots__ = ("name", "id", "raft", "force", "dry_run", "if_config")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    RAFT_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    IF_CONFIG_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: int
    raft: str
    force: bool
    dry_run: bool
    if_config: int
    def __init__(self, name: _Optional[str] = ..., id: _Optional[int] = ..., raft: _Optional[str] = ..., force: _Optional[bool] = ..., dry_run: _Optional[bool] = ..., if_config: _Optional[int] = ...) -> None: ...

class ReplaceMemberResponse(_message.Message):
    __slots__ = ("plan", "config")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    plan: MembershipPlan
    config: int
    def __init__(self, plan: _Optional[_Union[MembershipPlan, _Mapping]] = ..., config: _Optional[int] = ...) -> None: ...

class TransferLeaderRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class TransferLeaderResponse(_message.Message):
    __slots__ = ("leader",)
    LEADER_FIELD_NUMBER: _ClassVar[int]
    leader: str
    def __init__(self, leader: _Optional[str] = ...) -> None: ...

class BackupRequest(_message.Message):
    __slots__ = ("consistency", "without_contents")
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_CONTENTS_FIELD_NUMBER: _ClassVar[int]
    consistency: Consistency
    without_contents: bool
    def __init__(self, consistency: _Optional[_Union[Consistency, str]] = ..., without_contents: _Optional[bool] = ...) -> None: ...

class BackupResponse(_message.Message):
    __slots__ = ("data", "sha256")
    DATA_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    sha256: bytes
    def __init__(self, data: _Optional[bytes] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class ReportAgentRequest(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: AgentStatus
    def __init__(self, status: _Optional[_Union[AgentStatus, _Mapping]] = ...) -> None: ...

class ReportAgentResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
