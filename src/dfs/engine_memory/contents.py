"""Chunks of contents between engines in memory: the files are real ones, the network is not."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .membership import EngineError
from .network import MemoryNetwork

CHUNKS_WANTED_MAX: Final = 16_384


class Contents:
    """This part of an engine; see `_engine.Engine.fetch_chunks`."""

    name: str
    cluster: bytes
    raft: str
    contents: str
    network: MemoryNetwork

    def fetch_chunks(
        self,
        addr: str,
        content: bytes,
        size: int,
        chunk_bytes: int,
        wanted: Sequence[tuple[int, bytes]],
        path: str,
        timeout_ms: int,
        unfinished: bool = False,
    ) -> list[int]:
        """Copies chunks of a content from the files of the engine at `addr`."""
        if len(wanted) > CHUNKS_WANTED_MAX or chunk_bytes < 1:
            raise ValueError(f"{len(wanted)} chunks of {chunk_bytes} bytes")
        for number, digest in wanted:
            if not 0 <= number * chunk_bytes < size or len(digest) != 32 or len(content) != 32:
                raise ValueError(f"{size} bytes have no chunk {number}, or a digest is none")
        if not wanted:
            return []
        done: list[int] = []
        with open(path, "rb+", buffering=0) as target:
            try:
                held = self._reach(addr, timeout_ms)._file(addr, content, size, unfinished)
                with open(held, "rb", buffering=0) as source:
                    for number, digest in wanted:
                        start = number * chunk_bytes
                        source.seek(start)
                        target.seek(start)
                        data = source.read(min(chunk_bytes, size - start))
                        target.write(data)
                        self._reach(addr, timeout_ms)
                        if hashlib.sha256(data).digest() == digest:
                            done.append(number)
            except (OSError, EngineError):
                if not done:
                    raise
        return done

    def _reach(self, addr: str, timeout_ms: int) -> "Contents":
        with self.network.changed:
            other = self.network.engines.get(addr)
            if other is None:
                raise ConnectionError(f"{addr}: connection refused")
            if {self.raft, addr} & self.network.silent:
                raise TimeoutError(f"{addr}: no connection in time ({timeout_ms} ms)")
            if not self.cluster or not other.cluster:
                stray = self if not self.cluster else other
                raise EngineError(f"{addr}: {stray.name} belongs to no cluster yet")
            if self.cluster != other.cluster:
                theirs, ours = other.cluster.hex(), self.cluster.hex()
                raise EngineError(
                    f"{addr}: {other.name} belongs to cluster {theirs}, the caller to {ours}"
                )
            return other

    def _file(self, addr: str, content: bytes, size: int, unfinished: bool) -> Path:
        if not self.contents:
            raise EngineError(f"{addr}: {self.name} keeps no contents")
        name, top = content.hex(), Path(self.contents)
        filling = [top / "uploads", top / "arriving"] if unfinished else []
        places = [top / name[:2], *filling]
        path = next((p / name for p in places if (p / name).is_file()), None)
        if path is None:
            raise EngineError(f"{addr}: {self.name} has no content {name}")
        if (found := path.stat().st_size) != size:
            raise EngineError(
                f"{addr}: {self.name} has {found} bytes as content {name}, which has {size}"
            )
        return path
