"""Who belongs to a cluster in memory, and who leads it: the verbs that change it."""

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

    def add_learner(self, node_id: int, name: str, raft: str, grpc: str, timeout_ms: int) -> None:
        """Leader only; the engine at `raft` receives the log from here on."""
        with self._changed:
            log = self._leading()
            if node_id not in log.members:
                log.members[node_id] = member(node_id, name, raft, grpc, False)
                other = self.network.engines.get(raft)
                if other is not None and other.node_id == node_id:
                    other.cluster_log = log
                self._await(log.append_membership(), timeout_ms)

    def promote(self, node_id: int, timeout_ms: int) -> None:
        """Leader only: a learner becomes a voter."""
        with self._changed:
            log = self._leading()
            log.members[node_id]["voter"] = True
            self._await(log.append_membership(), timeout_ms)

    def remove(self, node_id: int, timeout_ms: int) -> None:
        """Leader only: the member receives nothing from here on."""
        with self._changed:
            log = self._leading()
            log.members.pop(node_id, None)
            self._await(log.append_membership(), timeout_ms)

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
            raise EngineError(f"the change was not applied within {timeout_ms} ms")

    def _reachable(self, node_id: int) -> bool:
        assert self.cluster_log is not None
        raft = self.cluster_log.members[node_id]["raft"]
        return raft in self.network.engines and raft not in self.network.silent
