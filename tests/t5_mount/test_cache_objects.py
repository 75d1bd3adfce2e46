"""Objects: content by its SHA-256, whole or not there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from dfs.cache.objects import Objects
from dfs.errors import DataLoss


def test_objects_refuse_content_with_another_hash(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    objects.open()
    with pytest.raises(DataLoss, match="has another"):
        objects.add(b"\x01" * 32, b"data")
    assert len(objects) == 1
    (tmp_path / "objects" / "00" / "7.tmp").write_bytes(b"of a crash")
    Objects(str(tmp_path)).open()
    assert os.listdir(tmp_path / "objects" / "00") == []
    assert not (tmp_path / "former").exists()


def test_an_object_that_was_not_finished_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = hashlib.sha256(b"data").digest()
    objects = Objects(str(tmp_path))
    objects.open()
    path = Path(objects.path(sha256))
    with monkeypatch.context() as full:
        full.setattr(os, "write", Mock(side_effect=OSError(errno.ENOSPC, "no space")))
        with pytest.raises(OSError, match="no space"):
            objects.add(sha256, b"data")
    assert sha256 not in objects
    assert not path.exists()
    assert Path(objects.add(sha256, b"data")).read_bytes() == b"data"
    path.unlink()
    path.write_bytes(b"da")
    path.chmod(0o200)  # As an agent leaves it that dies while it writes.
    objects = Objects(str(tmp_path))
    objects.open()
    assert sha256 not in objects
    assert not path.exists()


def test_many_are_stored_in_one_go_but_those_of_which_one_has_to_know_why(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    objects.open()
    data = [b"%d" % n for n in range(4)]
    good, here, hidden, odd = ((hashlib.sha256(one).digest(), one) for one in data)
    wrong = (b"\x01" * 32, b"data")
    for content in (here, hidden):
        objects.add(*content)
    objects.hide(hidden[0])
    (tmp_path / "objects" / odd[0].hex()[:2]).rmdir()  # Somebody tidied up.
    given = [good, here, wrong, hidden, odd, good]
    assert objects.add_together(given) == [here, wrong, hidden, odd, good]
    assert objects.bytes == 3
    assert objects.backing(good[0], 1) == objects.path(good[0])
    for content in (here, hidden, odd, good):
        assert Path(objects.add(*content)).read_bytes() == content[1]
    with pytest.raises(DataLoss):
        objects.add(*wrong)
    assert objects.bytes == 4
    again = Objects(str(tmp_path))
    again.open()
    assert again.bytes == 4


@pytest.mark.parametrize("fails", [False, True])
def test_two_threads_store_one_content_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    sha256 = hashlib.sha256(b"data").digest()
    objects = Objects(str(tmp_path))
    objects.open()
    other = threading.Thread(target=objects.add, args=(sha256, b"data"))

    def half_way(fd: int, data: memoryview) -> int:
        monkeypatch.undo()
        written = os.write(fd, data[:2])
        other.start()
        other.join()
        if fails:
            raise OSError(errno.EIO, "broken")
        return written

    monkeypatch.setattr(os, "write", half_way)
    with pytest.raises(OSError, match="broken") if fails else contextlib.nullcontext():
        objects.add(sha256, b"data")
    assert other.ident is not None, "it began in between"
    path = Path(objects.path(sha256))
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"data", 0o444)
    assert objects.backing(sha256, 4) == str(path)
    assert objects.bytes == 4
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.allow_logs("cached object is damaged")
@pytest.mark.parametrize("damaged", [b"", b"dat", b"data and more", b"dada"])
def test_an_object_that_somebody_wrote_to_is_never_used(tmp_path: Path, damaged: bytes) -> None:
    """One that is had anew takes its place; one that is verified is put into quarantine."""
    sha256 = hashlib.sha256(b"data").digest()
    objects = Objects(str(tmp_path))
    objects.open()
    path = Path(objects.add(sha256, b"data"))
    for use in (
        lambda o: o.backing(sha256, 4), lambda o: o.add(sha256, b"data"), lambda o: o.verify(sha256)
    ):
        path.chmod(0o600)
        path.write_bytes(damaged)
        objects = Objects(str(tmp_path))
        objects.open()
        assert use(objects) in (None, str(path))
        assert objects.add(sha256, b"data") == objects.backing(sha256, 4) == str(path)
        assert path.read_bytes() == b"data"
        assert objects.verify(sha256) == str(path)
        assert objects.bytes == 4
    quarantined = [p.read_bytes() for p in (tmp_path / "quarantine").iterdir()]
    assert quarantined == [damaged]
