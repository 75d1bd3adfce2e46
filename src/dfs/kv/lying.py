"""The database of a node that does not run, read as it lies there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from rocksdict import AccessType

from dfs.errors import DataLoss
from dfs.kv.rocks import _CURRENT, _open, _RocksSnapshot  # Its other half.

_ROCKSDICT: Final = "rocksdict-config.json"


class LyingRocks(_RocksSnapshot):
    """The database in a directory of RocksKV that nobody has open, as it lies there: nothing in the
    directory is changed, and it need not be writable."""

    def __init__(self, path: str | Path) -> None:
        """Raises DataLoss when it is damaged, OSError. Whoever calls keeps others out."""
        pointer = Path(path) / _CURRENT
        if not pointer.exists():
            raise DataLoss(f"the store {path} has no file {_CURRENT}, which names its database")
        found = (Path(path) / pointer.read_text().strip()).absolute()
        # rocksdict writes its own file also where it only reads: into a directory of links.
        self._links = tempfile.TemporaryDirectory(prefix="dfs-")
        for file in found.iterdir() if found.is_dir() else ():
            link = Path(self._links.name) / file.name
            if file.name == _ROCKSDICT:
                shutil.copyfile(file, link)
            else:
                link.symlink_to(file)
        try:
            name = Path(self._links.name)
            self._db = _open(name, create=False, access=AccessType.read_only())
        except BaseException:
            self._links.cleanup()
            raise
        super().__init__(self._db.iter(), None, None)

    def close(self) -> None:
        """See Snapshot."""
        super().close()
        self._db.close()
        self._links.cleanup()
