"""Transports, the listener that serves them, and the client engine that speaks them."""
