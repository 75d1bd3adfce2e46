"""The API: what a request means, and stock grpcio for all that is not hot.

Every method decodes, asks the node and encodes; decisions are the node's and the store's. Only
`host` and what is behind it need gRPC for Python, which takes long to import: that is done when the
node takes part in consensus already.
"""

from .hot import METHODS, codec, routes
from .streams import Streams

__all__ = ["METHODS", "Streams", "codec", "routes"]
