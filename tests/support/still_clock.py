"""A monotonic clock for tests, which stands still until it is moved."""


class StillClock:
    """Stands in for the module `time` where only ``monotonic`` is used.

    Attributes:
        now: in seconds.
    """

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now
