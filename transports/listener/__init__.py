"""The generic threaded listener: any transports, any endpoints, one service."""

from twinline.transports.listener.listener import Listener
from twinline.transports.listener.settings import ListenerSettings

__all__ = ["Listener", "ListenerSettings"]
