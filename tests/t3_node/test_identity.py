"""Identity of a data directory: made once, kept, never mistaken for another's."""

import json
import os

import pytest

from dfs.errors import Misconfigured
from dfs.identity import open_identity

CLUSTER = bytes(range(16))


def test_first_start_makes_an_id_that_later_starts_find(tmp_path):
    made = open_identity(tmp_path / "data", "node1")
    found = open_identity(tmp_path / "data", "node1")
    assert made.created
    assert not found.created
    assert (found.name, found.id, found.cluster) == ("node1", made.id, b"")
    assert 0 < made.id < 1 << 63
    assert sorted(os.listdir(tmp_path / "data")) == ["identity.json"]


def test_wiped_directory_gets_another_id(tmp_path):
    ids = {open_identity(tmp_path / str(n), "node1").id for n in range(8)}
    assert len(ids) == 8


def test_cluster_is_kept_and_never_exchanged(tmp_path):
    open_identity(tmp_path, "node1").join(CLUSTER)
    again = open_identity(tmp_path, "node1")
    assert again.cluster == CLUSTER
    again.join(CLUSTER)
    with pytest.raises(Misconfigured, match="belongs to cluster 0001"):
        again.join(CLUSTER[::-1])
    assert open_identity(tmp_path, "node1").cluster == CLUSTER


def test_a_learner_by_choice_and_a_fault_are_kept(tmp_path):
    identity = open_identity(tmp_path, "node1")
    identity.join(CLUSTER, voter=False)
    identity.condemn("its state differs")
    again = open_identity(tmp_path, "node1")
    assert (again.voter, again.fault) == (False, "its state differs")


def test_directory_of_another_node_is_refused(tmp_path):
    open_identity(tmp_path, "node1")
    before = (tmp_path / "identity.json").read_bytes()
    with pytest.raises(Misconfigured, match=r"node node1, not of node2.*DFS_ID=node1"):
        open_identity(tmp_path, "node2")
    assert (tmp_path / "identity.json").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"name": "node1"}', '{"name": "node1", "id": "x", "cluster": null}',
     '{"name": "node1", "id": 0, "cluster": null}', '{"name": "node1", "id": 5, "cluster": "zz"}',
     '{"name": "node1", "id": 5, "cluster": "00"}'],
)
def test_damaged_file_is_one_sentence(tmp_path, text):
    (tmp_path / "identity.json").write_text(text)
    with pytest.raises(Misconfigured, match="is damaged"):
        open_identity(tmp_path, "node1")
    assert (tmp_path / "identity.json").read_text() == text


def test_log_without_identity_is_refused(tmp_path):
    (tmp_path / "log").mkdir()
    with pytest.raises(Misconfigured, match=r"has log but no identity\.json"):
        open_identity(tmp_path, "node1")


def test_a_file_in_the_place_of_the_directory_is_one_sentence(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(Misconfigured, match="cannot be used: File exists"):
        open_identity(tmp_path / "data", "node1")


def test_a_path_too_long_for_a_socket_is_said_at_once(tmp_path):
    with pytest.raises(Misconfigured, match="longer than"):
        open_identity(tmp_path / ("x" * 100), "node1")


def test_a_first_start_that_comes_to_nothing_leaves_nothing(tmp_path):
    identity = open_identity(tmp_path / "data", "node1")
    (tmp_path / "data" / "log").mkdir()
    identity.abandon()
    assert os.listdir(tmp_path) == []


def test_what_was_there_before_stays(tmp_path):
    (tmp_path / "agent").mkdir()
    identity = open_identity(tmp_path, "node1")
    identity.abandon()
    assert os.listdir(tmp_path) == ["agent"]
    open_identity(tmp_path, "node1")
    open_identity(tmp_path, "node1").abandon()
    member = open_identity(tmp_path, "node1")
    member.created = True
    member.join(CLUSTER)
    member.abandon()
    assert json.loads((tmp_path / "identity.json").read_text())["cluster"] == CLUSTER.hex()
