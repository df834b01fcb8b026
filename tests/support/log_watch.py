"""Looks at all that the suite logs: no secret is in it, and every event is as the table has it.

What is logged is seen at every level, whatever a test has set, by whoever logs it in this process;
handlers, pytest's among them, see what they would see without this.
"""

import logging
import re
import traceback
from typing import Any

import pytest

from twinline.core.events import EVENTS

SECRETS = re.compile(
    "|".join(
        (
            r"correct horse",  # the password of nearly all tests
            r"battery staple",
            r"hunter2",
            r"\b[0-9a-f]{32}\.[\w-]{43}",  # a session's token
            r"\$argon2",  # a hash of a password
            r"\b[a-z0-9]{5}-[a-z0-9]{5}-[a-z0-9]{5}\b",  # a one-time password
            r"://[^/\s:@]+:[^/\s@*]+@",  # a URL with a password
        )
    )
)
ROOT_OF_OURS = "twinline"
_LEVEL = 1  # of no record: who finds it set knows that it is not a test's
_OF_JSON = {"time", "level", "node", "logger", "message", "event", "traceback"}

faults: list[str] = []
"""What was wrong with what was logged since this was looked at."""


def look(text: str) -> None:
    """Note a secret that is in a text."""
    found = SECRETS.search(text)
    if found is not None:
        faults.append(f"{found[0]!r} was logged: {text!r}")


def _look_at(record: logging.LogRecord) -> None:
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        text += "".join(traceback.format_exception(record.exc_info[1]))
    look(text)
    name = getattr(record, "event", None)
    if name is None:
        return
    fields: dict[str, Any] = record.fields  # type: ignore[attr-defined]
    event = EVENTS.get(name)
    if event is None:
        faults.append(f"{name} is not in the table")
    elif fields.keys() != event.fields.keys() or fields.keys() & _OF_JSON:
        faults.append(f"{name} has the fields {sorted(fields)}")
    look(repr(fields))


def _level_without_this(logger: logging.Logger | None) -> int:
    while logger is not None:
        if logger.level and not (logger.name == ROOT_OF_OURS and logger.level == _LEVEL):
            return logger.level
        logger = logger.parent
    return logging.NOTSET


def watch() -> None:
    """Look at every record of ours from now on."""
    handle = logging.Logger.callHandlers

    def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
        if logger.name.partition(".")[0] == ROOT_OF_OURS:
            _look_at(record)
            if record.levelno < _level_without_this(logger):
                return
        handle(logger, record)

    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]
    logging.getLogger(ROOT_OF_OURS).setLevel(_LEVEL)


def fail_if_something_is_wrong() -> None:
    """Fail the present test by what was logged since the last one."""
    if faults:
        told = "\n".join(faults)
        faults.clear()
        pytest.fail(told)


def settings_in_force() -> tuple[int, list[logging.Handler]]:
    """Return the level and our handlers of the root logger, which tests of one process share."""
    root = logging.getLogger()
    ours = [each for each in root.handlers if type(each).__module__.startswith(ROOT_OF_OURS)]
    return root.level, ours


def fail_if_changed(before: tuple[int, list[logging.Handler]]) -> None:
    """Put the root logger back as it was before the present test, and fail the test if it was not.

    What a later test sees in its log would depend on which tests have run in its process.
    """
    level, handlers = settings_in_force()
    if (level, handlers) != before:
        root = logging.getLogger()
        root.setLevel(before[0])
        for each in handlers:
            if each not in before[1]:
                root.removeHandler(each)
        pytest.fail(f"the root logger was left with {(level, handlers)}, and had {before}")
