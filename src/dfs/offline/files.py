"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..durable import sync_directory
from ..errors import DfsError, Misconfigured, OutOfSpace


@contextlib.contextmanager
def appearing(target: Path) -> Iterator[BinaryIO]:
    """A file to write, which appears under its name when it is whole and on disk, or not at all.
    Raises Misconfigured (it cannot be written there), OutOfSpace, and what the writer raises."""
    try:
        number, name = tempfile.mkstemp(".part", f".{target.name}.", target.parent)
    except OSError as error:
        raise Misconfigured(
            f"{target} cannot be written: {error.strerror or error}; choose another place"
        ) from None
    partial = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, DfsError):  # some are OSErrors as well
            raise
        raise OutOfSpace(f"{target} was not written: {error.strerror or error}") from None
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
