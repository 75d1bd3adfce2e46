"""Who this node is: `identity.json` in the data directory.

The id is the incarnation: 63 random bits, made when the data directory is first used. A node whose
directory was wiped comes back with another id, so it can neither vote nor append under the old one.
The file is written whole (temporary file, fsync, rename, fsync of the directory) before the engine
uses what it says.
"""

import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import Misconfigured

FILE: Final = "identity.json"
LOG: Final = "log"
STORE: Final = "store"
SOCKET: Final = "api.sock"
"""The public API for programs of this machine and user."""
UPSTREAM: Final = "rest.sock"
"""The stock gRPC server to which the engine forwards all calls but those of FileService."""
QUARANTINE: Final = "quarantine"
"""What was damaged, put away for people to look at."""
PEERS: Final = "peers.json"
"""Where the other members were last: whom a node can ask that has lost its state."""
OURS: Final = (LOG, STORE, SOCKET, UPSTREAM, FILE, PEERS, QUARANTINE, "agent")
"""Everything that a node and its agent put into the data directory."""
ID_BITS: Final = 63
CLUSTER_BYTES: Final = 16
SOCKET_PATH_BYTES_MAX: Final = 107
"""sockaddr_un.sun_path without its NUL."""


@dataclass
class Identity:
    """One node's name, incarnation and cluster, and where that is written."""

    directory: Path
    name: str
    id: int
    cluster: bytes = b""
    """UUID, 16 bytes; b"" = belongs to none yet."""
    voter: bool = True
    """It wants to become a voter once it has caught up."""
    fault: str = ""
    """Why this copy of the state may not be served any more."""
    fault_index: int = 0
    """A copy is right only if it comes from elsewhere and reaches this log index; 0 = any."""
    created: bool = False
    """Made by this process."""
    before: frozenset[str] = frozenset()
    """What stood in the directory when this process made it its own."""
    offered: bool = False
    """A cluster may know this id already, though no answer has said so."""

    def join(self, cluster: bytes, voter: bool = True) -> None:
        """Records durably that the node belongs to `cluster`, for good."""
        if self.cluster and cluster != self.cluster:
            raise Misconfigured(
                f"{self.directory} belongs to cluster {self.cluster.hex()}, not to"
                f" {cluster.hex()}; use another data directory or other peers"
            )
        self.cluster, self.voter = cluster, voter
        self.save()

    def condemn(self, fault: str, index: int = 0) -> None:
        """Records durably that the state in this directory is wrong: it is not served again."""
        self.fault, self.fault_index = fault, index
        self.save()

    def pardon(self) -> None:
        """Records durably that there is a good state again."""
        self.condemn("")

    def remember_peers(self, addresses: Sequence[str]) -> None:
        """Records durably where the other members are."""
        path = self.directory / f"{PEERS}.{os.getpid()}.tmp"
        _write(path, {"members": list(addresses)})
        os.replace(path, self.directory / PEERS)
        sync_directory(self.directory)

    def known_peers(self) -> list[str]:
        """What `remember_peers` was last told; nothing when that cannot be read."""
        try:
            found = json.loads((self.directory / PEERS).read_text(encoding="utf-8"))["members"]
        except (OSError, ValueError, KeyError, TypeError):
            return []  # the peers of the settings are left to ask
        return [address for address in found if isinstance(address, str)]

    def save(self) -> None:
        """Replaces the file by one that says what this object says."""
        os.replace(self._write_temporary(), self.directory / FILE)
        sync_directory(self.directory)

    def abandon(self) -> None:
        """Undoes the first start of a node that never became a member: nothing stays on disk.

        No effect where the identity was there before this process, or a cluster may know it.
        """
        if not self.created or self.cluster or self.offered:
            return
        for name in set(OURS) - self.before:
            path = self.directory / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if not any(self.directory.iterdir()):
            self.directory.rmdir()

    def _write_temporary(self) -> Path:
        found: dict[str, Any] = {
            "cluster": self.cluster.hex() or None, "name": self.name, "id": self.id
        }
        if not self.voter:
            found["voter"] = False
        if self.fault:
            found["fault"] = self.fault
            found["fault_index"] = self.fault_index
        path = self.directory / f"{FILE}.{os.getpid()}.tmp"
        _write(path, found)
        return path


def open_identity(directory: Path, name: str) -> Identity:
    """Loads the identity of `directory`, or makes one where the directory is unused.

    Raises Misconfigured with one sentence: not a directory of ours, another name, no access.
    """
    room = SOCKET_PATH_BYTES_MAX - len(os.fsencode(f"/{UPSTREAM}"))
    if len(os.fsencode(directory.absolute())) > room:
        raise Misconfigured(
            f"the path of the data directory {directory.absolute()} is longer than {room} bytes,"
            f" so the socket in it cannot be opened; choose a shorter one"
        )
    try:
        return _open(directory, name)
    except OSError as error:
        raise Misconfigured(
            f"the data directory {directory} cannot be used: {error.strerror or error};"
            " make it writable or choose another with -data"
        ) from None


def _open(directory: Path, name: str) -> Identity:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / FILE
    if not path.exists():
        left = [part for part in (LOG, STORE) if (directory / part).exists()]
        if left:
            raise Misconfigured(
                f"{directory} has {' and '.join(left)} but no {FILE}: put that file back, or choose"
                " an empty data directory (with one, it takes the place of the member that lost its"
                f" data by: dfs member replace {name})"
            )
        before = frozenset(os.listdir(directory))
        number = secrets.randbits(ID_BITS) or 1
        fresh = Identity(directory, name, number, created=True, before=before)
        temporary = fresh._write_temporary()
        try:
            os.link(temporary, path)  # unlike rename, it never replaces what another process made
            sync_directory(directory)
            return fresh
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    found = _load(path)
    if found.name != name:
        raise Misconfigured(
            f"{directory} is the data directory of node {found.name}, not of {name}: start it with"
            f" DFS_ID={found.name}, or choose another data directory"
        )
    return found


def _load(path: Path) -> Identity:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        name, number = found["name"], found["id"]
        cluster = bytes.fromhex(found["cluster"] or "")
        sound = isinstance(name, str) and isinstance(number, int) and 0 < number < 1 << ID_BITS
        if not sound or len(cluster) not in (0, CLUSTER_BYTES):
            raise ValueError("a field has a value that it cannot have")
    except (ValueError, KeyError, TypeError) as error:
        raise Misconfigured(
            f"{path} is damaged ({error}): put back a good copy; without one, wipe the data"
            " directory, remove the node from the cluster and let it join again"
        ) from None
    return Identity(
        path.parent, name, number, cluster, bool(found.get("voter", True)),
        str(found.get("fault", "")), int(found.get("fault_index", 0)),
    )  # fmt: skip


def _write(path: Path, found: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8", opener=_private) as file:
        json.dump(found, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def sync_directory(directory: Path) -> None:
    """Makes durable which names a directory has."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
