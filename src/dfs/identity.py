"""Who this node is: `identity.json` in the data directory.

The id is the incarnation: 63 random bits, made when the data directory is first used. A node whose
directory was wiped comes back with another id, so it can neither vote nor append under the old one.
The file is written whole (temporary file, fsync, rename, fsync of the directory) before the engine
uses what it says.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .durable import sync_directory
from .errors import Misconfigured, remedy

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
"""Where this node and the other members were last: whom to ask, before Raft says it."""
PROMISES: Final = "promises.json"
"""What the log has on disk for sure; see `dfs.healing`."""
OURS: Final = (LOG, STORE, SOCKET, UPSTREAM, FILE, PEERS, PROMISES, QUARANTINE, "contents", "agent")
"""Everything that a node and its agent put into the data directory."""
NOTHING_PROMISED: Final = bytes(8)
"""For the engine: no vote, and no entry."""
UNDECIDED: Final = -1
"""As `fault_index`: two states differ, and nobody can say which is right."""
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
    """A copy is right only if it comes from elsewhere and reaches this log index; 0 = any copy;
    UNDECIDED = a person has to say so, by removing the wrong one."""
    former: int = 0
    """The id of the member whose place this node takes: itself, before it lost its log."""
    former_cluster: bytes = b""
    """The cluster of that member."""
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
        if self.former and cluster != self.former_cluster:
            raise Misconfigured(
                f"{self.directory} belonged to cluster {self.former_cluster.hex()}, not to"
                f" {cluster.hex()}; use other peers"
            )
        self.cluster, self.voter = cluster, voter
        self.former, self.former_cluster = 0, b""
        self.save()

    def condemn(self, fault: str, index: int = 0) -> None:
        """Records durably that the state in this directory is wrong: it is not served again."""
        self.fault, self.fault_index = fault, index
        self.save()

    def pardon(self) -> None:
        """Records durably that there is a good state again."""
        self.condemn("")

    def start_over(self) -> None:
        """Records durably that this is a new node now, which takes the place of the former one."""
        self.former, self.former_cluster = self.id, self.cluster
        self.id, self.cluster = new_id(), b""
        self.fault, self.fault_index = "", 0
        self.save()

    def keep_promises(self, promised: bytes) -> None:
        """Records durably what the log has on disk."""
        found = {"id": self.id, "promised": promised.hex()}
        text = json.dumps({**found, "sha256": _digest(found)})
        _write_if_room(self.directory / PROMISES, text + "\n")

    def promises(self) -> bytes:
        """What `keep_promises` was last told; nothing where that cannot be known."""
        try:
            found = json.loads((self.directory / PROMISES).read_text(encoding="utf-8"))
            digest = found.pop("sha256")
            if digest != _digest(found) or found["id"] != self.id:
                return NOTHING_PROMISED
            return bytes.fromhex(found["promised"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return NOTHING_PROMISED

    def remember_addresses(self, me: str, others: Sequence[str]) -> None:
        """Records durably where this node listens for its peers, and where the other members do."""
        if (me, list(others)) != self.known_addresses():
            text = json.dumps({"me": me, "others": list(others)})
            _write_if_room(self.directory / PEERS, text + "\n")

    def known_addresses(self) -> tuple[str, list[str]]:
        """What `remember_addresses` was last told; nothing when that cannot be read."""
        try:
            found = json.loads((self.directory / PEERS).read_text(encoding="utf-8"))
            return str(found["me"]), [str(address) for address in found["others"]]
        except (OSError, ValueError, KeyError, TypeError):
            return "", []  # the peers of the settings are left to ask

    def save(self) -> None:
        """Replaces the file by one that says what this object says. Raises Misconfigured when the
        disk refuses; the file says the one or the other then."""
        path = self.directory / FILE
        try:
            os.replace(self._write_temporary(), path)
            sync_directory(self.directory)
        except OSError as error:
            raise _unwritable(path, error) from None

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
        if self.former:
            found["former"] = {"id": self.former, "cluster": self.former_cluster.hex()}
        found["sha256"] = _digest(found)
        path = self.directory / f"{FILE}.{os.getpid()}.tmp"
        _write(path, json.dumps(found) + "\n")
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
            f"the data directory {directory} cannot be used: {error.strerror or error}"
            + (remedy(error) or "; make it writable or choose another with -data")
        ) from None


def read_identity(directory: Path) -> Identity:
    """The identity of a data directory that is there. Raises Misconfigured: it is none of ours, or
    the file is damaged."""
    if not (directory / FILE).exists():
        raise Misconfigured(f"{directory} is no data directory of a node: it has no {FILE}")
    return _load(directory / FILE)


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
        fresh = Identity(directory, name, new_id(), created=True, before=before)
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
        digest = found.pop("sha256", None)  # former versions wrote none
        if digest is not None and digest != _digest(found):
            raise ValueError("its digest does not fit")
        name, number = found["name"], found["id"]
        cluster = bytes.fromhex(found["cluster"] or "")
        former = int(found.get("former", {}).get("id", 0))
        former_cluster = bytes.fromhex(found.get("former", {}).get("cluster", ""))
        sound = isinstance(name, str) and isinstance(number, int) and 0 < number < 1 << ID_BITS
        if not sound or len(cluster) not in (0, CLUSTER_BYTES):
            raise ValueError("a field has a value that it cannot have")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Misconfigured(
            f"{path} is damaged ({error}): put back a good copy; without one, wipe the data"
            " directory, remove the node from the cluster and let it join again"
        ) from None
    return Identity(
        path.parent, name, number, cluster, bool(found.get("voter", True)),
        str(found.get("fault", "")), int(found.get("fault_index", 0)), former, former_cluster,
    )  # fmt: skip


def new_id() -> int:
    """For a node that nobody has known before."""
    return secrets.randbits(ID_BITS) or 1


def _digest(found: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", opener=_private) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_if_room(path: Path, text: str) -> None:
    """What helps to notice damage must not end a node whose disk is full: the old text stays, and
    it is written again some time."""
    try:
        write_durably(path, text)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> Misconfigured:
    return Misconfigured(f"{path} cannot be written: {error.strerror or error}{remedy(error)}")


def write_durably(path: Path, text: str) -> None:
    """Replaces a file: after a crash it has the old or the new text."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    _write(temporary, text)
    os.replace(temporary, path)
    sync_directory(path.parent)
