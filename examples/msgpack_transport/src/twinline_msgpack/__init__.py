"""MessagePack for twinline, as another package brings it: see the README."""
