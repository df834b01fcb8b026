"""The number of an epoch: it grows when a store was put back or fails over, and seqs with it.

A backup is behind what readers have seen: were its seqs to go on from there, new mail would have
seqs that a reader passed long ago, and be acked unseen. So all seqs jump by `SEQ_JUMP` for each
number that the epoch rose.
"""

import time
from typing import Final

from twinline.core.store import SEQ_JUMP

_BEGAN: Final = 1_767_225_600  # 2026, in seconds since 1970
_TICK: Final = 600  # seconds
_MOST: Final = 2**20  # ticks, or 20 years; 2^53 holds as many renewals after them


def next_epoch(epoch: int, beyond: int = 0) -> int:
    """Return the epoch that follows one, and one that readers may have seen elsewhere."""
    # By the clock, for one backup may be put back twice, and must not give the same seqs twice.
    ticks = min(int(time.time() - _BEGAN) // _TICK, _MOST)
    return max(epoch + 1, beyond + 1, ticks)


def jump(before: int, after: int) -> int:
    """Return how far seqs jump from one epoch to another."""
    return (after - before) * SEQ_JUMP
