"""Binary frames: length-prefixed, versioned, with a fixed header and room for optional fields.

::

    codec    the two ends of a connection: frames to requests and replies, and back
    frames   cuts a stream into frames; the header, and the kinds that number the models
    fields   lays out a model's fields in a frame
"""

from twinline.transports.binary.codec import (
    BinaryClientCodec,
    BinaryServerCodec,
    BinaryTransport,
)

__all__ = ["BinaryClientCodec", "BinaryServerCodec", "BinaryTransport"]
