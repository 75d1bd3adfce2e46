"""The API: what a request means, and stock grpcio for all that is not hot.

Every method decodes, asks the node and encodes; decisions are the node's and the store's.
"""

from .host import LEADER, serving
from .hot import METHODS, codec, routes

__all__ = ["LEADER", "METHODS", "codec", "routes", "serving"]
