"""What every test runs under: the lock rule is checked from the first lock on."""

from twinline.core.locks import check_locks

check_locks(True)
