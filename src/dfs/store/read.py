"""Reading the tree and its history."""

from collections.abc import Iterator
from types import TracebackType

from dfs.store.layout import Change


class View:
    """The state at one applied index. Any thread; `close` when done (or use `with`).

    When the whole state is replaced meanwhile (`restore`), calls raise Unavailable: repeat them.
    """

    revision: int
    """The applied index that it shows."""
    floor: int
    """Oldest revision in history then."""

    def get(self, key: str, revision: int = 0) -> tuple[bytes, bytes]:
        """(encoded Record, content) of a file. Raises NotFound, IsADirectory, OutOfRange,
        FailedPrecondition (a symlink), DataLoss."""
        raise NotImplementedError

    def stat(self, key: str, revision: int = 0) -> bytes:
        """The encoded Record of a key of any kind. Raises NotFound, OutOfRange, DataLoss."""
        raise NotImplementedError

    def list(
        self, key: str = "", recursive: bool = False, after: str = "", data_bytes_max: int = 0
    ) -> Iterator[tuple[str, bytes, bytes | None]]:
        """(key, encoded Record, content or None) in key order, behind the key `after`.

        `key`: "" = the whole tree, a directory (its children, or with `recursive` its subtree,
        without itself), else that one key. Content of files of up to `data_bytes_max` bytes when
        that is not 0. Raises NotFound, InvalidArgument (`after` is elsewhere), DataLoss.
        """
        raise NotImplementedError

    def history(self, key: str, before: int = 0) -> Iterator[Change]:
        """The retained changes of a key and of all below it, newest first, with revision <
        `before` (0 = all)."""
        raise NotImplementedError

    def changes(self, after_revision: int) -> Iterator[Change]:
        """All changes with revision > `after_revision`, ascending. Raises OutOfRange when some of
        them are below the floor."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of the frozen state. Idempotent."""

    def __enter__(self) -> "View":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
