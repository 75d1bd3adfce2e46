"""What an upload says of its content beforehand, and whether that is what came."""

from __future__ import annotations

from ..commands import check_metadata, check_request_id
from ..errors import FailedPrecondition, InvalidArgument
from ..limits import SMALL_VALUE_BYTES_MAX
from ..manifest import SHA256_BYTES, Manifest, chunk_bytes_of
from ..paths import check_key
from ..proto.dfs_pb2 import UploadHead


def key_of(head: UploadHead) -> str:
    """Under which the content is to be stored."""
    return head.key or head.hold_for


def manifest_of(head: UploadHead) -> Manifest | None:
    """What its sender says that the content is; None: it does not know all of that."""
    if not head.digests:
        return None
    return Manifest(head.sha256, head.size, chunk_bytes_of(head.size), head.digests)


def check_head(head: UploadHead) -> None:
    """It breaks no rule. Raises InvalidArgument."""
    check_key(key_of(head))
    if head.hold_for and (
        head.key or head.HasField("metadata") or head.HasField("base_revision")
    ):
        raise InvalidArgument(
            f"{head.hold_for}: what is held for a transaction has no key, metadata and"
            " base_revision yet: say them there"
        )
    check_request_id(head.request_id)
    check_metadata(head.metadata)
    if head.sha256 and len(head.sha256) != SHA256_BYTES:
        raise InvalidArgument(f"{key_of(head)}: the SHA-256 of a content has {SHA256_BYTES} bytes")
    if (known := manifest_of(head)) and not (
        head.sha256 and len(head.digests) == SHA256_BYTES * known.chunks
    ):
        raise InvalidArgument(
            f"{key_of(head)}: with digests goes the SHA-256 of the whole, and a digest of"
            f" {SHA256_BYTES} bytes for each chunk: {head.size:,} bytes are {known.chunks:,} chunks"
        )


def check_held(head: UploadHead, manifest: Manifest) -> None:
    """What the state keeps in records is held by nobody. Raises InvalidArgument."""
    if manifest.size <= SMALL_VALUE_BYTES_MAX:
        raise InvalidArgument(
            f"{head.hold_for}: {manifest.size:,} bytes are too few to be held; up to"
            f" {SMALL_VALUE_BYTES_MAX:,} (SMALL_VALUE_BYTES_MAX) they go as `put` into the"
            " transaction"
        )


def check_whole(head: UploadHead, manifest: Manifest) -> None:
    """What has arrived is what was said. What is too short may be gone on with. Raises
    FailedPrecondition."""
    if head.size and manifest.size != head.size:
        raise FailedPrecondition(
            f"{key_of(head)}: {manifest.size:,} bytes have come, {head.size:,} were announced;"
            " upload with the same request id goes on behind them"
        )
    if head.sha256 and manifest.sha256 != head.sha256:
        raise FailedPrecondition(
            f"{key_of(head)}: what has come has SHA-256 {manifest.sha256.hex()}, not the announced"
            f" {head.sha256.hex()}; nothing was stored, upload it with another request id"
        )
