"""kill -9 of a process that writes: what is left is a whole prefix, never behind the last flush."""

import os
import random
import signal
import subprocess
import sys
from itertools import count

import pytest
from t1_store.building import START_NS, dump, entry, figures

from dfs import commands
from dfs.kv import MemoryKV, RocksKV
from dfs.proto.dfs_pb2 import DeleteRequest, PutRequest
from dfs.store import Store

BATCH = 20
WRITER = r"""
import os, sys, threading
from t1_store.test_crash import batches, one
from dfs.kv import RocksKV
from dfs.store import Store

store = Store(RocksKV(sys.argv[1]))

due = threading.Event()

def flushing():
    while due.wait():
        due.clear()
        os.write(1, b"flushed %d\n" % store.flush())

threading.Thread(target=flushing, daemon=True).start()
for entries in batches(store.applied + 1):
    one(store, entries)
    os.write(1, b"applied %d\n" % store.applied)
    if store.applied % (7 * len(entries)) == 0:
        due.set()
"""


def payload(index):
    """The entry at an index of an endless log that is always the same."""
    chance = random.Random(index)
    key = f"d{chance.randrange(5)}/{chance.randrange(200)}"
    now = START_NS + index
    if chance.random() < 0.1:
        return entry(commands.delete_head, DeleteRequest(key=key), now)
    if chance.random() < 0.01:
        floor = max(index - 500, 0)
        return commands.floor_entry(floor, "n") + commands.stamp(now)
    data = chance.randbytes(chance.choice([10, 100, 6_000]))
    request_id = index.to_bytes(16, "big")
    return entry(
        commands.put_head, PutRequest(key=key, data=data, request_id=request_id), now
    )


def batches(first):
    """The log from an index on."""
    for start in count(first, BATCH):
        yield [(index, payload(index), False) for index in range(start, start + BATCH)]


def one(store, entries):
    """Applies one batch."""
    store.apply(entries, b"id%d" % entries[-1][0], b"m%d" % entries[-1][0])


def killed_after(path, batches_more, known):
    """Lets a child write until it has applied so many batches more, kills it; says how far it
    had got: (applied, flushed)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, env=environment, text=True
    ) as child:
        said = {"applied": known, "flushed": known}
        while said["applied"] < known + batches_more * BATCH:
            word, number = child.stdout.readline().split()
            said[word] = int(number)
        child.send_signal(signal.SIGKILL)
        child.wait()
        for line in child.stdout:
            if line.endswith("\n"):
                word, number = line.split()
                said[word] = int(number)
    return said["applied"], said["flushed"]


@pytest.mark.timeout(120)
def test_kill_9_leaves_a_whole_prefix_of_batches(tmp_path):
    path = tmp_path / "kv"
    chance = random.Random(7)
    found = 0
    for round_ in range(5):
        applied, flushed = killed_after(path, chance.randrange(1, 60), found)
        kv = RocksKV(path)
        store = Store(kv)
        assert flushed <= store.applied <= applied + BATCH, f"round {round_}"
        assert store.applied % BATCH == 0
        found = store.applied
        memory = MemoryKV()
        twin = Store(memory)
        for entries in batches(1):
            if entries[-1][0] > store.applied:
                break
            one(twin, entries)
        assert figures(store) == figures(twin)
        assert dump(kv) == dump(memory)
        kv.close()
    assert found > 100
