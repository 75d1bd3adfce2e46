import pytest
from t1_store.building import Writer

from dfs.kv import MemoryKV, RocksKV


@pytest.fixture(params=["memory", "rocks"])
def kv(request, tmp_path):
    opened = MemoryKV() if request.param == "memory" else RocksKV(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def writer(kv):
    return Writer(kv)
