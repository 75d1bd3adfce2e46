"""The settings: one frozen dataclass is the only list of them.

Flag, variable, key of dfs.yaml, help, `dfs config` and the table in the documents come from the
fields of `Settings`. Flags beat DFS_* variables beat dfs.yaml in the working directory beat
defaults. A flag may have one dash or two (`-id`, `--id`).

**Addresses and protected mode.** `raft` and `grpc` are where the node listens; without a host
(":12000") that is every interface of the machine. As long as `insecure` is false, callers and peers
that are not on loopback get one sentence instead of an answer, so nothing is open by accident, and
nobody wonders why a connection is refused. `advertise` is the host under which the others reach
this node: by default the host of `raft`; where that is every interface, 127.0.0.1 in protected
mode, else the node's id when `peers` names it, else the host name of the machine.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from .errors import Misconfigured
from .limits import (
    CACHE_FREE_BYTES_MIN,
    CACHE_FREE_PERCENT_MIN,
    DEADLINE_MS_DEFAULT,
    DELETE_DELAY_S,
    GRPC_PORT,
    RAFT_PORT,
)
from .sizes import NONE, FreeSpace, size_of, size_text

FILE: Final = "dfs.yaml"
PREFIX: Final = "DFS_"
ID_CHARACTERS_MAX: Final = 63
"""A DNS label: an id is used as a host name where containers are named like their node."""
PORT_MAX: Final = 65_535
ALL_INTERFACES: Final = "0.0.0.0"
EVERYWHERE: Final = ("", ALL_INTERFACES, "::")
"""Hosts that say to listen on every interface; nobody can connect to them."""
LOOPBACK: Final = "127.0.0.1"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
OFF: Final = NONE
"""Said for a directory that is not wanted; so is an empty value."""

IGNORE: Final = "ignore"
NUMERIC: Final = "numeric"
OWNERS: Final = (IGNORE, NUMERIC)
"""What may become of the owners of files."""

NOT_SETTINGS: Final = frozenset(("DFS_CONFIG", "DFS_FUSE_TABLE", "DFS_STANDBY"))
"""Variables of ours that are no settings: the name of the file itself, and what a supervisor hands
to its agent."""

# Kubernetes and old Docker links put these into every container beside a service called "dfs-…".
_INJECTED = re.compile(r"(_|^)(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP)(_\w+)?)?)$")
_ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m)?")

NODE: Final = "node"
AGENT: Final = "agent"
CLIENT: Final = "client"
LOCAL: Final = "local"
"""Commands that ask the agent of this machine."""


# ---- values ------------------------------------------------------------------------------------
def split_address(text: str, port: int) -> tuple[str, int]:
    """"host:port", ":port", "host" or "[v6]:port" as (host, port); `port` where none is given.

    Raises ValueError with what is wrong.
    """
    host, found = text.strip(), ""
    if bracketed := re.fullmatch(r"\[([^\]]*)\](?::(.*))?", host):
        host, found = bracketed[1], bracketed[2] or ""
    elif host.count(":") == 1:
        host, found = host.split(":")
        if not found:
            raise ValueError(f"{text!r} ends where a port should follow")
    if any(c.isspace() or c in "/,@" for c in host):
        raise ValueError(f"{text!r} is not host:port")
    if not found:
        return host, port
    if not found.isascii() or not found.isdigit() or not 1 <= int(found) <= PORT_MAX:
        raise ValueError(f"port {found!r} is not a number from 1 to {PORT_MAX}")
    return host, int(found)


def join_address(host: str, port: int) -> str:
    """The reverse of `split_address`, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(port: int) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        # A bare number in dfs.yaml or on the command line is a port.
        text = f":{value}" if re.fullmatch(r"\d+", str(value)) else str(value)
        host, found = split_address(text, port)
        return join_address(LOOPBACK if host == "localhost" else host, found)

    return parse


def _peers(value: Any) -> tuple[str, ...]:
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    found = []
    for part in (str(p).strip() for p in parts):
        if not part:
            continue
        host, port = split_address(part, RAFT_PORT)
        if not host:
            raise ValueError(f"peer {part!r} names no host")
        found.append(join_address(LOOPBACK if host == "localhost" else host, port))
    return tuple(dict.fromkeys(found))


def _id(value: Any) -> str:
    text = str(value)
    if len(text) > ID_CHARACTERS_MAX or not _ID.fullmatch(text):
        raise ValueError(
            f"{text!r} is no id: letters, digits, '.', '_' and '-', a letter or digit at both "
            f"ends, at most {ID_CHARACTERS_MAX} characters"
        )
    return text


def _host(value: Any) -> str:
    host, port = split_address(str(value), 0)
    if port or not host:
        raise ValueError(f"{value!r} is not a host name or address without a port")
    return host


def _directory(value: Any) -> Path:
    if not str(value):
        raise ValueError("it is empty where a directory is needed")
    return Path(str(value)).expanduser()


def _optional_directory(value: Any) -> Path | None:
    return None if value in (None, False, "", OFF) else _directory(value)


def _boolean(value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    try:
        return words[str(value).lower()]
    except KeyError:
        raise ValueError(f"{value!r} is neither true nor false") from None


def _log_level(value: Any) -> str:
    if str(value) not in LOG_LEVELS:
        raise ValueError(f"{value!r} is none of {', '.join(LOG_LEVELS)}")
    return str(value)


def _owner(value: Any) -> str:
    if str(value) not in OWNERS:
        raise ValueError(f"{value!r} is none of {', '.join(OWNERS)}")
    return str(value)


def seconds_of(value: Any) -> float:
    """"10", "2.5s", "500ms", "1m"."""
    match = _DURATION.fullmatch(str(value).strip())
    seconds = float(match[1]) * {"ms": 0.001, "s": 1, "m": 60}[match[2] or "s"] if match else 0.0
    if seconds <= 0:
        raise ValueError(f"{value!r} is no duration such as 10s or 500ms")
    return seconds


def _endpoints(value: Any) -> tuple[str, ...]:
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    found = tuple(part for part in (str(p).strip() for p in parts) if part)
    if not found:
        raise ValueError("it names no endpoint")
    for part in found:
        if not part.startswith("unix:"):
            split_address(part, GRPC_PORT)
    return found


# ---- the list ------------------------------------------------------------------------------------
def _said(
    doc: str, default: str, parse: Callable[[Any], Any], *used_by: str, shown: str = ""
) -> dict[str, Any]:
    """One setting: `default` is written as a user would; `shown` where it is found out at start."""
    return {"doc": doc, "default": default, "parse": parse, "used_by": used_by, "shown": shown}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a user may set. Get one from `load`."""

    id: str = field(metadata=_said(
        "Name of this node, unique in the cluster.", "", _id, NODE, shown="the host name"
    ))
    raft: str = field(metadata=_said(
        "Address for the other nodes; without a host: every interface.",
        f":{RAFT_PORT}", _address(RAFT_PORT), NODE,
    ))
    grpc: str = field(metadata=_said(
        "Address for callers; without a host: every interface.",
        f":{GRPC_PORT}", _address(GRPC_PORT), NODE,
    ))
    data: Path = field(metadata=_said(
        "Directory for log, store and identity.", "data", _directory, NODE, LOCAL
    ))
    peers: tuple[str, ...] = field(metadata=_said(
        "Other nodes, host[:port] with commas between; where to join, and where to look for them.",
        "", _peers, NODE,
    ))
    cache: Path | None = field(metadata=_said(
        f"Directory whose files go into the tree; {OFF}: no cache.",
        "/mnt/hostfs", _optional_directory, NODE, AGENT,
    ))
    mount: Path | None = field(metadata=_said(
        f"Directory where the tree is shown, read-only; {OFF}: no mount.",
        "/mnt/dfs", _optional_directory, NODE, AGENT,
    ))
    state: Path = field(metadata=_said(
        "Directory for the agent's objects and records.", "", _directory, NODE, AGENT, LOCAL,
        shown="agent below data",
    ))
    xattr: bool = field(metadata=_said(
        "The mount has extended attributes: those stored, and what is known; ls -l gets slower.",
        "false", _boolean, NODE, AGENT,
    ))
    no_open: bool = field(metadata=_said(
        "Small files of the mount open several times as fast, large ones are read slower, there "
        "is no .dfs.", "false", _boolean, NODE, AGENT,
    ))
    owner: str = field(metadata=_said(
        f"{IGNORE}: files of the mount belong to whoever mounts; {NUMERIC}: uid and gid go with a "
        "drop, and the mount shows them.", IGNORE, _owner, NODE, AGENT,
    ))
    cache_size: int = field(metadata=_said(
        "Of the content that the agent keeps: at most so much, as 10GiB.",
        OFF, size_of, NODE, AGENT,
    ))
    cache_free: FreeSpace = field(metadata=_said(
        "What the agent leaves free on the disk of state: a size, a share, or the lesser of both.",
        f"{size_text(CACHE_FREE_BYTES_MIN)},{CACHE_FREE_PERCENT_MIN}%", FreeSpace.of, NODE, AGENT,
    ))
    propagate_deletes: bool = field(metadata=_said(
        "Delete from the tree what is removed from a cache directory that has a .dfs-propagate.",
        "false", _boolean, NODE, AGENT,
    ))
    delete_delay: float = field(metadata=_said(
        "How long it must have been gone.", f"{DELETE_DELAY_S}s", seconds_of, NODE, AGENT
    ))
    transfer_rate: int = field(metadata=_said(
        "Of large contents that nobody waits for: fetch at most so much a second, as 10MiB.",
        OFF, size_of, NODE,
    ))
    insecure: bool = field(metadata=_said(
        "Answer callers and peers that are not on loopback, without authentication.",
        "false", _boolean, NODE,
    ))
    advertise: str = field(metadata=_said(
        "Host under which other nodes and clients reach this node.", "", _host, NODE,
        shown="the host of raft, 127.0.0.1, id or the host name",
    ))
    endpoint: tuple[str, ...] = field(metadata=_said(
        "Node to call: host[:port] or unix:/path; several with commas between.",
        "", _endpoints, AGENT, CLIENT, shown=f"the node of this machine, localhost:{GRPC_PORT}",
    ))
    timeout: float = field(metadata=_said(
        "Longest time for one call, retries included: 10s, 500ms.",
        f"{DEADLINE_MS_DEFAULT // 1000}s", seconds_of, CLIENT,
    ))
    log_level: str = field(metadata=_said(
        f"Least severity that is logged: {', '.join(LOG_LEVELS)}.", "info", _log_level, NODE, AGENT
    ))

    @property
    def raft_listen(self) -> str:
        """Address to bind for peers."""
        return _listen(self.raft)

    @property
    def grpc_listen(self) -> str:
        """Address to bind for callers."""
        return _listen(self.grpc)

    @property
    def raft_advertise(self) -> str:
        """Address that the other nodes connect to."""
        return join_address(self.advertise, split_address(self.raft, RAFT_PORT)[1])

    @property
    def grpc_advertise(self) -> str:
        """Address that clients learn for this node."""
        return join_address(self.advertise, split_address(self.grpc, GRPC_PORT)[1])


def _listen(address: str) -> str:
    host, port = split_address(address, 0)
    return join_address(host or ALL_INTERFACES, port)


class Row(NamedTuple):
    """One setting for help, documents and `dfs config`."""

    name: str
    flag: str
    variable: str
    default: str
    doc: str
    used_by: tuple[str, ...]
    boolean: bool


def rows() -> list[Row]:
    """Every setting, in the order in which it is shown."""
    return [
        Row(
            f.name, "-" + f.name.replace("_", "-"), PREFIX + f.name.upper(),
            f.metadata["shown"] or f.metadata["default"], f.metadata["doc"],
            f.metadata["used_by"], f.metadata["parse"] is _boolean,
        )
        for f in fields(Settings)
    ]


class Loaded(NamedTuple):
    """Settings, and for each field where its value came from."""

    settings: Settings
    sources: dict[str, str]

    def given(self, name: str) -> bool:
        """Somebody asked for this value; it is no default."""
        return self.sources[name] != "default"


# ---- loading -------------------------------------------------------------------------------------
def load(
    flags: Mapping[str, str | None], environ: Mapping[str, str], directory: Path | None = None
) -> Loaded:
    """Puts flags (field name → text), variables and dfs.yaml below `directory` together.

    `DFS_CONFIG` names another file, which must exist then. Raises Misconfigured with one sentence.
    """
    path, must_exist = (directory or Path()) / FILE, False
    if named := environ.get(PREFIX + "CONFIG"):
        path, must_exist = (directory or Path()) / named, True
    layers = [
        ({k: v for k, v in flags.items() if v is not None}, "flag -{0}"),
        (_variables(environ), "variable {1}"),
        (_file(path, must_exist), str(path).replace("{", "{{").replace("}", "}}")),
    ]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for row, spec in zip(rows(), fields(Settings), strict=True):
        raw, source = cast(Any, spec.metadata["default"]), "default"
        for layer, named_source in layers:
            if row.name in layer:
                raw = layer[row.name]
                source = named_source.format(row.flag[1:], row.variable)
                break
        if source == "default" and spec.metadata["shown"]:
            raw = _found_out(row.name, values)
        try:
            values[row.name] = spec.metadata["parse"](raw)
        except ValueError as error:
            raise Misconfigured(f"{row.name} ({source}): {error}") from None
        sources[row.name] = source
    return Loaded(Settings(**values), sources)


def _found_out(name: str, values: Mapping[str, Any]) -> Any:
    """Defaults that depend on the machine or on settings before them."""
    if name == "state":
        return values["data"] / "agent"
    if name == "id":
        label = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().split(".")[0])
        return label.strip("-")[:ID_CHARACTERS_MAX].rstrip("-") or "node"
    if name == "endpoint":
        host, port = split_address(values["grpc"], GRPC_PORT)
        return join_address("localhost" if host in EVERYWHERE else host, port)
    assert name == "advertise"
    host, _ = split_address(values["raft"], RAFT_PORT)
    if host not in EVERYWHERE:
        return host
    if not values["insecure"]:
        return LOOPBACK
    named = {split_address(peer, RAFT_PORT)[0] for peer in values["peers"]}
    return values["id"] if values["id"] in named else socket.gethostname()


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    known = {row.variable: row.name for row in rows()}
    found = {}
    for variable, value in environ.items():
        name = variable.removeprefix(PREFIX)
        if name == variable or variable in NOT_SETTINGS or _INJECTED.search(name):
            continue
        if variable not in known:
            raise Misconfigured(f"unknown variable {variable}{suggest(variable, known)}")
        # An empty variable is how compose files say "not set".
        if value or known[variable] in ("cache", "mount"):
            found[known[variable]] = value
    return found


def _file(path: Path, must_exist: bool) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if must_exist:
            raise Misconfigured(f"DFS_CONFIG names {path}, which does not exist") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Misconfigured(f"{path} cannot be read: {why}; fix or remove it") from None
    import yaml  # 20 ms, only where there is such a file

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or "it is no YAML"
        raise Misconfigured(f"{path}{where}: {what}; write `key: value` lines") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise Misconfigured(f"{path}: it is no list of `key: value` lines, such as `id: node1`")
    known = {row.name for row in rows()}
    for key in content:
        if key not in known:
            raise Misconfigured(f"{path}: unknown key {key!r}{suggest(str(key), known)}")
    return {k: v for k, v in content.items() if v is not None or k in ("cache", "mount")}


def suggest(word: str, known: Mapping[str, Any] | set[str] | list[str]) -> str:
    """"; did you mean …?", or a list of what there is."""
    import difflib  # only on the way to an error

    names = sorted(known)
    folded = {n.lstrip("-").replace("-", "_").lower(): n for n in names}
    close = difflib.get_close_matches(word.lstrip("-").replace("-", "_").lower(), list(folded), 1)
    if close:
        return f"; did you mean {folded[close[0]]}?"
    return f"; there are {', '.join(names)}"
