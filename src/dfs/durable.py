"""What a crash or a power cut must find on disk."""

import os
from pathlib import Path


def sync_directory(path: Path) -> None:
    """Makes durable which names a directory has; syncing a file does not. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
