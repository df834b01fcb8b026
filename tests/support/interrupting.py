"""Raises an exception wherever Python may run a signal's handler, at one place after another.

Python runs the handlers of signals in the main thread, and not between any two instructions: at the
entry of a function, after a call, and at a jump backwards. A handler that raises does so there. So
what a call does when it is interrupted can be tried at every place instead of by luck.
"""

import dis
import inspect
import itertools
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType, FunctionType
from typing import Any

_CALLS = {dis.opmap[name] for name in ("CALL", "CALL_KW", "CALL_FUNCTION_EX") if name in dis.opmap}
_JUMP = dis.opmap["JUMP_BACKWARD"]
_RESUME = dis.opmap["RESUME"]  # not there is a generator that something is thrown into
_SUSPENDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE


class Interrupt(BaseException):
    """What the handler raises; no code of ours may catch it for good."""


def _is_ours(frame: FrameType) -> bool:
    # contextlib's frames are as good as ours: it runs what our context managers are made of.
    name = frame.f_globals.get("__name__", "")
    return name.startswith("twinline.") or name == "contextlib"


def interrupt(call: Callable[[], object], at: int) -> str | None:
    """Make a call, and raise `Interrupt` at one place in it.

    Args:
        call: what to interrupt.
        at: which of the places, from 0.

    Returns:
        The place, or None when the call ended before it.
    """
    left = at
    place: str | None = None

    def reached(frame: FrameType) -> None:
        nonlocal left, place
        left -= 1
        if place is None and left < 0:
            code = frame.f_code
            place = f"{frame.f_globals['__name__']}.{code.co_qualname}:{frame.f_lineno}"
            raise Interrupt(place)

    def instruction(frame: FrameType) -> int:
        return frame.f_code.co_code[frame.f_lasti]

    # The interpreter calls these in the midst of an instruction: what they raise is raised there.

    def calls(frame: FrameType, event: str, _argument: object) -> None:
        if event == "c_return" or (event == "call" and instruction(frame) == _RESUME):
            if _is_ours(frame):
                reached(frame)
        elif event == "return" and not frame.f_code.co_flags & _SUSPENDS:
            caller = frame.f_back
            if caller is not None and _is_ours(caller) and instruction(caller) in _CALLS:
                reached(caller)

    def jumps(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "call":
            if not _is_ours(frame):
                return None
            frame.f_trace_lines = False
            frame.f_trace_opcodes = True
        elif event == "opcode" and instruction(frame) == _JUMP:
            reached(frame)
        return jumps

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(jumps)
    sys.setprofile(calls)
    try:
        call()
    except Interrupt:
        pass
    finally:
        sys.setprofile(before[1])
        sys.settrace(before[0])
    return place


def each_place(call: Callable[[], object], step: int = 1) -> Iterator[str]:
    """Make a call again and again, interrupted at the next place each time; yield the places.

    Args:
        call: what to interrupt.
        step: which place is the next one; more than 1 where a call takes long.
    """
    for at in itertools.count(0, step):
        assert at < 20_000, "the call has no end"
        place = interrupt(call, at)
        if place is None:
            return
        yield place


def bombard(call: FunctionType, count: int, seconds: float) -> None:
    """Make a call again and again, until so many real signals have interrupted it at random.

    Args:
        call: what to interrupt.
        count: how many signals.
        seconds: the test fails if it takes longer.
    """
    main = threading.main_thread().ident
    assert main is not None
    interrupted = 0
    deadline = time.monotonic() + seconds

    def handle(_number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        while frame is not None:
            if frame.f_globals.get("__name__") == "_pytest.unraisableexception":
                return  # it notes one that came in a finalizer: it must note it whole
            if frame.f_code is call.__code__:
                interrupted += 1
                raise Interrupt
            frame = frame.f_back

    def send() -> None:
        while interrupted < count and time.monotonic() < deadline:
            time.sleep(random.uniform(0.0001, 0.001))
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=send, name="signals", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            with suppress(Interrupt):
                call()
    finally:
        interrupted, kept = count, interrupted
        thread.join(10)
        signal.signal(signal.SIGUSR1, before)
    assert kept >= count, f"{kept} interruptions in {seconds} s"
