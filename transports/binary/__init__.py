"""Binary frames: length-prefixed, versioned, with a fixed header and room for optional fields."""

from twinline.transports.binary.codec import (
    BinaryClientCodec,
    BinaryServerCodec,
    BinaryTransport,
)

__all__ = ["BinaryClientCodec", "BinaryServerCodec", "BinaryTransport"]
