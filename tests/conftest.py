"""What every test runs under: the lock rule is checked from the first lock on."""

import signal

from twinline.core.locks import check_locks

check_locks(True)

# Fixtures of several files; a file that needs another of the same name has its own.
from cli_server import ann  # noqa: E402, F401
from client_kit import both_clients, proxy, site  # noqa: E402, F401

# A shell that starts a suite in the background without job control has it ignore SIGINT, and so
# would every process that a test starts and then interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
