"""Who belongs to a cluster in memory, and who leads it: the verbs that change it."""

from collections.abc import Sequence
from threading import Condition

from .network import Cluster, MemoryNetwork, member


class EngineError(Exception):
    """The twin of `_engine.EngineError`."""


class Membership:
    """This part of an engine; see `_engine.Engine` for every verb."""

    name: str
    node_id: int
    cluster: bytes
    raft: str
    grpc: str
    applied: int
    network: MemoryNetwork
    cluster_log: Cluster | None
    _changed: Condition

    def set_cluster(self, cluster: bytes) -> None:
        """The node belongs to this cluster from here on."""
        self.cluster = cluster

    def initialize(self, timeout_ms: int) -> None:  # noqa: ARG002
        """Makes a cluster of one."""
        with self._changed:
            if self.cluster_log is None:
                self.cluster_log = cluster = Cluster(leader=self.node_id)
                self.network.clusters.append(cluster)
                cluster.members[self.node_id] = member(
                    self.node_id, self.name, self.raft, self.grpc, True
                )
                cluster.append_membership()
            self._changed.notify_all()

    def change(
        self, config: int, members: Sequence[tuple[int, str, str, str, bool]], timeout_ms: int
    ) -> int:
        """Leader only: these are the members from here on, if `config` still says who they were."""
        with self._changed:
            log = self._leading()
            if config != log.config:
                raise EngineError(f"the members are those of entry {log.config}, not of {config}")
            to_be = {row[0]: member(*row) for row in members}
            if to_be == log.members:
                return config
            votes = {i for i, m in to_be.items() if m["voter"]}
            now = {i for i, m in log.members.items() if m["voter"]}
            if len(votes ^ now) > 1 or not votes:
                raise EngineError("one vote more or less at a time, and never none")
            log.members = to_be
            for row in to_be.values():
                other = self.network.engines.get(row["raft"])
                if other is not None and other.node_id == row["id"]:
                    other.cluster_log = log
            index = log.append_membership()
            self._await(index, timeout_ms)
            return index

    def transfer_leader(self, node_id: int, timeout_ms: int) -> None:  # noqa: ARG002
        """Leader only: another voter leads."""
        with self._changed:
            log = self._leading()
            others = [i for i, m in log.members.items() if m["voter"] and i != self.node_id]
            chosen = node_id or next((i for i in others if self._reachable(i)), 0)
            if chosen not in others:
                raise EngineError("no other voter has caught up")
            log.leader, log.term = chosen, log.term + 1
            self._changed.notify_all()

    def _leading(self) -> Cluster:
        if self.cluster_log is None or self.cluster_log.leader != self.node_id:
            raise EngineError("this node does not lead")
        return self.cluster_log

    def _await(self, index: int, timeout_ms: int) -> None:
        self._changed.notify_all()
        if not self._changed.wait_for(lambda: self.applied >= index, timeout_ms / 1000):
            raise TimeoutError(f"the change was not applied within {timeout_ms} ms")

    def _reachable(self, node_id: int) -> bool:
        assert self.cluster_log is not None
        raft = self.cluster_log.members[node_id]["raft"]
        return raft in self.network.engines and raft not in self.network.silent
