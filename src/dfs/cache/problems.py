"""What the user has to know: one sentence for each path or part that has a problem."""

from __future__ import annotations

import logging
import re
from typing import Final

from ..limits import PROBLEMS_MAX

_PART: Final = re.compile(r"\([a-z-]+\)")

log = logging.getLogger(__name__)


class Problems:
    """Sentences by subject, oldest first. Each is logged once, when it arises or changes."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def set(self, subject: str, text: str) -> None:
        """`subject` is a path of the cache directory, or a part of the agent as "(inotify)"."""
        if self._texts.get(subject) != text:
            self._texts[subject] = text
            log.warning("%s", self._line(subject))

    def clear(self, subject: str) -> None:
        """It is gone."""
        self._texts.pop(subject, None)

    def text(self, subject: str) -> str:
        """Its sentence, or ""."""
        return self._texts.get(subject, "")

    def of_paths(self) -> list[tuple[str, str]]:
        """(path, what is wrong with it)"""
        return [(s, text) for s, text in self._texts.items() if not _is_part(s)]

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, subject: str) -> bool:
        return subject in self._texts

    def lines(self) -> list[str]:
        """For the status: at most PROBLEMS_MAX, then how many more there are."""
        shown = [self._line(s) for s in list(self._texts)[:PROBLEMS_MAX]]
        more = len(self._texts) - len(shown)
        return [*shown, f"… and {more:,} more; see the log"] if more else shown

    def _line(self, subject: str) -> str:
        text = self._texts[subject]
        return shown(text if _is_part(subject) else f"{subject}: {text}")


def shown(text: str) -> str:
    """A name, or a sentence with one in it, as one line of UTF-8: what would end the line, move the
    cursor or is no text is written with a backslash."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"  # A byte that is no UTF-8.
    return character.encode("unicode_escape").decode()


def _is_part(subject: str) -> bool:
    """A part of the agent; a file may begin with a bracket, too."""
    return _PART.fullmatch(subject) is not None
