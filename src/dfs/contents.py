"""Large contents on disk: one immutable file for each, by its SHA-256.

    contents/ab/<sha256>        whole, verified, sealed, on disk; appears only by rename
    contents/arriving/<sha256>  of its size, some chunks written: what is right in it is kept
    contents/incoming/<name>    handed over by programs of this machine, who know their digests
    contents/uploads/<name>     on its way from a caller; by its SHA-256 if that was announced
    contents/quarantine/…       damaged chunks, for people to look at

A content is cut into chunks of equal size, which are moved and verified one by one; their digests
stand in the state. Holes stay holes. Any thread may call.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ._engine import digest_chunks
from .durable import sync_directory
from .errors import DataLoss, FailedPrecondition, InvalidArgument
from .limits import CONTENT_KEEP_S
from .manifest import SHA256_BYTES, Manifest
from .sealing import is_sealed, seal, unused_s, use

log = logging.getLogger(__name__)

DIRECTORY: Final = "contents"
ARRIVING: Final = "arriving"
INCOMING: Final = "incoming"
UPLOADS: Final = "uploads"
QUARANTINE: Final = "quarantine"
_NAME: Final = re.compile(r"[0-9a-f]{32,64}")


class Files:
    """The contents of one node. Only one process may have them open for writing."""

    def __init__(self, root: Path) -> None:
        """`root`: the directory `contents`."""
        self.root = root
        self.arriving, self.incoming = root / ARRIVING, root / INCOMING
        self.uploads = root / UPLOADS
        self.here: dict[bytes, int] = {}
        """Size of each that is whole."""
        self._lock = threading.Lock()

    def open(self) -> None:
        """Makes the directories and looks what is there; what has no seal (`dfs.sealing`) arrives,
        as `doubt` says. Blocks. Raises OSError."""
        for directory in (self.root, self.arriving, self.incoming, self.uploads):
            directory.mkdir(mode=0o700, exist_ok=True)
        sync_directory(self.root)
        for directory in self._directories():
            sync_directory(directory)  # A killed process may have left a name in memory alone.
            with os.scandir(directory) as entries:
                for entry in entries:
                    if len(entry.name) == 2 * SHA256_BYTES:
                        sha256 = bytes.fromhex(entry.name)
                        found = entry.stat(follow_symlinks=False)
                        self.here[sha256] = found.st_size
                        if not is_sealed(found):
                            self.doubt(sha256)

    def _directories(self) -> Iterator[Path]:
        for number in range(256):
            directory = self.root / f"{number:02x}"
            if directory.is_dir():
                yield directory

    @property
    def total(self) -> int:
        """Bytes of all that are whole."""
        return sum(list(self.here.values()))

    def __contains__(self, sha256: bytes) -> bool:
        return sha256 in self.here

    def has(self, name: str) -> int:
        """Of the content with that SHA-256 in hex: 2 = all is here, 1 = some of it may be, 0 =
        nothing. Blocks."""
        if bytes.fromhex(name) in self.here:
            return 2
        return int(any((at / name).exists() for at in (self.uploads, self.arriving)))

    def free(self) -> int:
        """Bytes that the disk has for them. Raises OSError."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def path(self, sha256: bytes) -> Path:
        """Where a content is, or would be."""
        return path_in(self.root, sha256)

    # ---- what comes in ---------------------------------------------------------------------------

    def incoming_path(self, name: str) -> Path:
        """Where a file is that is handed over by that name, 32 to 64 hexadecimal digits. Raises
        InvalidArgument."""
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"{name!r} is no name of incoming content: 32 to 64 of 0-9a-f")
        return self.incoming / name

    def adopt(self, source: Path, manifest: Manifest) -> None:
        """Makes a file in `incoming` or `uploads`, whose digests its writer has computed, the
        content: on disk when this returns. Blocks. Raises FailedPrecondition, OSError."""
        name = source.name
        if self.touch(manifest.sha256):
            source.unlink(missing_ok=True)
            return
        try:
            size = source.stat().st_size
        except FileNotFoundError:
            raise FailedPrecondition(
                f"no content is coming in as {name}: hand it over again"
            ) from None
        if size != manifest.size:
            raise FailedPrecondition(
                f"the incoming content {name} has {size:,} bytes, not {manifest.size:,}: hand it"
                " over again"
            )
        self._install(source, manifest)

    def arrive(self, manifest: Manifest) -> Path:
        """The file into which chunks may be written, made if need be. Blocks. Raises OSError."""
        path = self.arriving / manifest.sha256.hex()
        _make(path, manifest.size)
        return path

    def announced(self, manifest: Manifest) -> Path:
        """The file into which its sender's chunks go, made if need be. Blocks. Raises OSError."""
        path = self.uploads / manifest.sha256.hex()
        _make(path, manifest.size)
        return path

    def hand_on(self, manifest: Manifest) -> None:
        """What has arrived of a content that nobody fetches any more counts for its sender, who has
        sent nothing yet. Takes no time. Raises OSError."""
        path = self.uploads / manifest.sha256.hex()
        if not path.exists():
            with contextlib.suppress(FileNotFoundError):
                (self.arriving / path.name).rename(path)

    def borrow(
        self, manifest: Manifest, numbers: Iterable[int], base: Manifest, path: Path
    ) -> list[int]:
        """Copies chunks out of another content that is here, such as the version before, into the
        file at `path`: the numbers of those that are right now. Without other bytes on disk where
        the file system can share them. Blocks. Raises OSError."""
        places = {base.digest(n): n for n in range(base.chunks)}
        found = [(n, places[d]) for n in numbers if (d := manifest.digest(n)) in places]
        if not found or base.chunk_bytes != manifest.chunk_bytes or base.sha256 not in self.here:
            return []
        with self.path(base.sha256).open("rb") as source, path.open("r+b") as target:
            for number, at in found:
                _copy(source.fileno(), at * base.chunk_bytes, target.fileno(),
                      number * manifest.chunk_bytes, manifest.length(number))
            copied = {number for number, _ in found}
            return sorted(copied - set(wrong(target.fileno(), manifest, copied)))

    def complete(self, manifest: Manifest) -> None:
        """All chunks of the arriving file are right: it is the content, and on disk, when this
        returns. Blocks. Raises OSError."""
        self._install(self.arriving / manifest.sha256.hex(), manifest)

    def fill(self, manifest: Manifest, chunks: Iterable[tuple[int, bytes]]) -> None:
        """Writes a content anew, out of all its chunks that are not empty, which their giver has
        verified: on disk when this returns. Blocks. Raises OSError, and what `chunks` raises;
        nothing of it is left then."""
        path = self.arrive(manifest)
        try:
            with path.open("r+b") as file:
                for number, data in chunks:
                    file.seek(number * manifest.chunk_bytes)
                    file.write(data)
            self.complete(manifest)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _install(self, source: Path, manifest: Manifest) -> None:
        target = self.path(manifest.sha256)
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(fd, 0o444)
            seal(fd)
            os.fsync(fd)
        except OSError:
            source.unlink()  # What was not written is not tried again: a next sync hides it.
            raise
        finally:
            os.close(fd)
        with self._lock:
            if not target.parent.is_dir():
                target.parent.mkdir(mode=0o700)
                sync_directory(self.root)
            source.rename(target)
            try:
                sync_directory(target.parent)
            except OSError:
                target.unlink()
                raise
            self.here[manifest.sha256] = manifest.size

    # ---- what is here ----------------------------------------------------------------------------

    def touch(self, sha256: bytes) -> bool:
        """Somebody is about to name it: if it is here, it stays for another CONTENT_KEEP_S."""
        with self._lock:
            if sha256 not in self.here:
                return False
            try:
                use(self.path(sha256))
            except FileNotFoundError:
                del self.here[sha256]
                return False
        return True

    def read(self, manifest: Manifest, number: int) -> bytes:
        """One chunk, verified, of a content that is whole or arrives. Blocks. Raises DataLoss: it
        is damaged or gone; OSError."""
        length, data = manifest.length(number), b""
        paths = [self.arriving / manifest.sha256.hex(), self.path(manifest.sha256)]
        for path in reversed(paths) if manifest.sha256 in self.here else paths:
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                data = os.pread(file.fileno(), length, number * manifest.chunk_bytes)
                break
        if hashlib.sha256(data).digest() != manifest.digest(number):
            raise DataLoss(f"chunk {number} of the content {manifest.sha256.hex()} is damaged")
        return data

    def fits(self, manifest: Manifest) -> bool:
        """The file that is here is what the manifest says. Blocks: it is read. Raises OSError."""
        return fits(self.path(manifest.sha256), manifest)

    def doubt(self, sha256: bytes) -> bool:
        """Takes a content back to those that arrive, all of whose chunks are verified, if somebody
        has written to it, or removed it; whether it was so. Raises OSError."""
        with self._lock:
            with contextlib.suppress(FileNotFoundError):
                if sha256 not in self.here or is_sealed(self.path(sha256).stat()):
                    return False
            self._take_back(sha256)
        log.warning("the content %s was written to, or removed: it is verified anew", sha256.hex())
        return True

    def _take_back(self, sha256: bytes) -> None:
        self.here.pop(sha256, None)
        path = self.arriving / sha256.hex()
        with contextlib.suppress(FileNotFoundError):
            self.path(sha256).rename(path)
            path.chmod(0o600)
            os.utime(path)

    def distrust(self, manifest: Manifest) -> list[int]:
        """Takes a content back to those that arrive, and keeps its damaged chunks for people to
        look at: their numbers. Blocks."""
        with self._lock:
            self._take_back(manifest.sha256)
        path = self.arrive(manifest)
        damaged = lacking(path, manifest)
        quarantine = self.root / QUARANTINE
        quarantine.mkdir(mode=0o700, exist_ok=True)
        with path.open("rb") as file:
            for number in damaged[:_KEPT_CHUNKS_MAX]:
                length, at = manifest.length(number), number * manifest.chunk_bytes
                data = os.pread(file.fileno(), length, at)
                (quarantine / f"{manifest.sha256.hex()}.{number}").write_bytes(data)
        return damaged

    def remove(self, sha256: bytes) -> None:
        """Nothing names it any more: it goes, unless somebody is about to. Whoever has it open
        keeps it. Blocks."""
        with self._lock:
            if self.spare(sha256):
                self.here.pop(sha256, None)
                self.path(sha256).unlink(missing_ok=True)

    def spare(self, sha256: bytes) -> bool:
        """It has not been handed over, or been about to be named, for CONTENT_KEEP_S."""
        try:
            return unused_s(self.path(sha256)) > CONTENT_KEEP_S
        except FileNotFoundError:
            return True

    def sweep(self, wanted: Iterable[bytes]) -> None:
        """Removes what was left on its way for CONTENT_KEEP_S, but for what is `wanted`. Blocks."""
        keep = {sha256.hex() for sha256 in wanted}
        for directory in (self.arriving, self.incoming, self.uploads):
            for path in list(directory.iterdir()):
                with contextlib.suppress(FileNotFoundError):
                    if path.name not in keep and _age_s(path) > CONTENT_KEEP_S:
                        path.unlink()


_KEPT_CHUNKS_MAX = 8
"""Damaged chunks of one content that are put into quarantine."""


def path_in(root: Path, sha256: bytes) -> Path:
    """Where a content stands below the directory `contents`."""
    name = sha256.hex()
    return root / name[:2] / name


def _make(path: Path, size: int) -> None:
    """Sees to it that there is a file of that size; what is in it stays."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size != size:
            os.ftruncate(fd, size)
    finally:
        os.close(fd)


def lacking(path: Path, manifest: Manifest) -> list[int]:
    """Numbers of the chunks that are not right in a file that is being filled. Blocks: it reads
    what was written there. Raises OSError."""
    with path.open("rb") as file:
        fd = file.fileno()
        written = set(_written(fd, manifest))
        holes = (n for n in range(manifest.chunks) if n not in written)
        return sorted([n for n in holes if not manifest.empty(n)] + wrong(fd, manifest, written))


def wrong(fd: int, manifest: Manifest, numbers: Iterable[int]) -> list[int]:
    """Those of the chunks of an open file that are not what they must be. Blocks."""
    asked = sorted(numbers)
    found = digest_chunks(fd, manifest.size, manifest.chunk_bytes, asked)
    pairs = zip(asked, found, strict=True)
    return [number for number, digest in pairs if digest != manifest.digest(number)]


def right(fd: int, manifest: Manifest, number: int) -> bool:
    """One chunk of an open file is what it must be. Blocks."""
    at = number * manifest.chunk_bytes
    try:
        written = os.lseek(fd, at, os.SEEK_DATA) < at + manifest.length(number)
    except OSError:  # ENXIO: nothing but a hole up to the end
        written = False
    return (written or manifest.empty(number)) and not wrong(fd, manifest, [number])


def fits(path: Path, manifest: Manifest) -> bool:
    """The file there is what the manifest says. Blocks: it is read. Raises OSError."""
    with path.open("rb") as file:
        same = os.fstat(file.fileno()).st_size == manifest.size
        return same and not wrong(file.fileno(), manifest, range(manifest.chunks))


def _written(fd: int, manifest: Manifest) -> Iterator[int]:
    """Numbers of the chunks of which something was written."""
    at = 0
    while at < manifest.size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        number = at // manifest.chunk_bytes
        yield number
        at = (number + 1) * manifest.chunk_bytes


def _copy(source: int, at: int, target: int, to: int, length: int) -> None:
    while length:
        copied = os.copy_file_range(source, target, length, at, to)
        if not copied:
            return  # The source is shorter than it was: the digest will tell.
        at, to, length = at + copied, to + copied, length - copied


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime
