"""A network that tests can hold and break."""

from collections.abc import Iterator

import pytest

from .nodes import Node
from .relay import Network, Relay


@pytest.fixture
def network() -> Iterator[Network]:
    """Every node that is opened gets a relay in front of it."""
    network, relays = Network(), []
    original = Node.open

    def opened(node: Node) -> None:
        if not node.listen:
            node.listen = node.addr
            relays.append(Relay(network, node.id, node.listen))
            node.addr = relays[-1].addr
        original(node)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Node, "open", opened)
        yield network
    network.hold(None)
    for relay in relays:
        relay.close()
