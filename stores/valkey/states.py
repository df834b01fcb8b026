"""What limits are counted in, where all servers of a store count together: compare and set."""

import time
from random import SystemRandom
from typing import Any, Final

from twinline.core.deadline import Deadline
from twinline.core.errors import StoreUnavailable
from twinline.core.store import SharedStates, Step
from twinline.stores.valkey.account_scripts import AccountScripts
from twinline.stores.valkey.engine import CALL_SECONDS, Engine
from twinline.stores.valkey.keys import Keys
from twinline.stores.valkey.lane import plain
from twinline.stores.valkey.pending import script_call

_AGAIN_SECONDS: Final = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016)  # and so on with the last


class ValkeyStates(SharedStates):
    """Values under keys that end by themselves."""

    def __init__(self, engine: Engine, keys: Keys, scripts: AccountScripts) -> None:
        self._engine = engine
        self._keys = keys
        self._scripts = scripts
        self._random = SystemRandom()

    def change(self, key: str, step: Step, *, keep_ms: int) -> None:
        """Change a value as one step; see `SharedStates.change`."""
        deadline = Deadline.after(CALL_SECONDS)
        state = self._keys.state(key)
        attempt = 0
        while True:
            before = self.read(key)
            after = step(before)
            arguments = (
                b"" if before is None else b"1",
                before or b"",
                b"" if after is None else b"1",
                after or b"",
                b"%d" % max(keep_ms, 1),
            )
            call = script_call(self._scripts.change_state, (state,), arguments)
            if self._engine.do(call):
                return
            if deadline.passed:
                raise StoreUnavailable("others change the same state all the time")
            # Of many that try at once one succeeds each time; the others need not come together.
            most = _AGAIN_SECONDS[min(attempt, len(_AGAIN_SECONDS) - 1)]
            time.sleep(self._random.uniform(0, most))
            attempt += 1

    def read(self, key: str) -> bytes | None:
        """Return a value as it is now; see `SharedStates.read`."""
        state = self._keys.state(key)
        value: Any = self._engine.do(plain(state, b"GET", state))
        return None if value is None else bytes(value)
