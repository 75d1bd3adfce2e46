"""What holds for every test: layers in order, no unexpected log line, hypothesis without chance.

The layers are the folders t0_core … t6_cluster. They run in that order, and a layer with a failure
is the last one that runs: what stands on a broken layer says nothing. A test that logs a WARNING or
worse fails, unless it said before that it expects the line: `@pytest.mark.allow_logs("regex")`, or
`allow_logs("regex")` from the fixture of that name.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Generator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parent.parent

# "every" finds the same examples each time; "soak" looks for new ones: HYPOTHESIS_PROFILE=soak.
hypothesis.settings.register_profile("every", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("soak", max_examples=20_000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "every"))


def layer(item: pytest.Item) -> str:
    """The folder below tests/ that a test stands in, which is its layer."""
    return item.path.relative_to(ROOT / "tests").parts[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts by layer, keeping the order inside each."""
    items.sort(key=layer)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Stops behind the lowest layer that has a failure."""
    result = yield
    session = item.session
    if session.testsfailed and nextitem is not None and layer(nextitem) != layer(item):
        session.shouldstop = f"{layer(item)} is broken: the layers above it were not run"
    return result


class Unexpected(logging.Handler):
    """Collects the lines of WARNING and above that nobody announced."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.allowed: list[re.Pattern[str]] = []
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the line, with its traceback."""
        self.lines.append(self.format(record))

    def unexpected(self) -> list[str]:
        """The lines that match no allowed pattern."""
        return [s for s in self.lines if not any(p.search(s) for p in self.allowed)]


@pytest.fixture(autouse=True)
def allow_logs(request: pytest.FixtureRequest) -> Generator[Callable[[str], None]]:
    """Fails the test at its end for each unexpected log line; call it to expect some."""
    handler = Unexpected()
    for mark in request.node.iter_markers("allow_logs"):
        handler.allowed += [re.compile(pattern) for pattern in mark.args]
    logging.getLogger().addHandler(handler)
    try:
        yield lambda pattern: handler.allowed.append(re.compile(pattern))
    finally:
        logging.getLogger().removeHandler(handler)
    lines = handler.unexpected()
    if lines:
        pytest.fail("unexpected log lines:\n" + "\n".join(lines), pytrace=False)


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """The grpcurl command that tools/grpcurl builds; skips visibly where that was not possible."""
    path = ROOT / ".build" / "bin" / "grpcurl"
    if not path.exists():
        pytest.skip("no grpcurl: `make test` builds it where Go is installed (tools/grpcurl)")
    return path
