"""What an operator is told of: one table of events, and the one way to tell of them.

An event has a stable name, a level, a sentence for a person, and fields for a program. `emit` hands
it to the logger ``twinline.events`` as an ordinary log record, which has besides its message::

    record.event     the name, such as "login_failed"
    record.fields    a dictionary of the fields, of the names that the table has

No field ever holds a password, a token, the body of a message or the URL of a store. Nor does one
hold a name that was tried and that no account has: people type passwords into the field for the
name. Who an event is about stands in ``username``, and where it came from in ``address``.

Which events are told of one by one, and which are counted when they repeat, is a matter of the log
(`Event.by`); here each is told of.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

log = logging.getLogger("twinline.events")

_USERNAME: Final = "the account"
_TRIED: Final = "the account; null where no account has the name that was given"
_ADDRESS: Final = "where it came from: an IP address, `unix`, or empty where that is not known"
_BY: Final = "who did it, as the admin socket knows it: a user's number, and a process's"
_BY_ADDRESS: Final = ("address",)
_BY_ACCOUNT: Final = ("address", "username")


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A kind of event.

    Attributes:
        name: never changes its meaning.
        level: of the log record.
        sentence: for a person, with the fields as ``%(name)s``.
        fields: what each field holds, by its name.
        about: when it is told.
        by: the fields that a log counts repetitions by; () if each is worth a line.
        many: what several of them are called, where they are counted.
    """

    name: str
    level: int
    sentence: str
    about: str
    fields: Mapping[str, str]
    by: tuple[str, ...] = ()
    many: str = ""


# -- the server -----------------------------------------------------------------------------

SERVER_STARTED: Final = Event(
    "server_started",
    logging.INFO,
    "twinline %(version)s starts on %(endpoints)s: store %(store)s, durability %(durability)s, "
    "listener %(listener)s, at most %(connections)s connections, %(connections_per_address)s from "
    "one address, registration %(registration)s",
    "the store is open, and the server is about to listen",
    {
        "version": "of twinline",
        "endpoints": "where it is to listen, as the settings have it",
        "store": "the kind of the store, such as `sqlite`",
        "durability": "what an acknowledged message survives",
        "listener": "`threads` or `loop`",
        "connections": "the most connections",
        "connections_per_address": "the most from one address",
        "registration": "who may create an account",
    },
)
SERVER_READY: Final = Event(
    "server_ready",
    logging.INFO,
    "ready on %(endpoints)s",
    "connections are taken from now on",
    {"endpoints": "where it listens, with the ports that it got"},
)
METRICS_READY: Final = Event(
    "metrics_ready",
    logging.INFO,
    "metrics and health are at %(endpoint)s: /metrics, /healthz, /readyz",
    "metrics_listen is set, and these pages are served from now on",
    {"endpoint": "the beginning of their URLs, with the port that it got"},
)
STORE_KEEPS_NOTHING: Final = Event(
    "store_keeps_nothing",
    logging.WARNING,
    "the store is %(store)s: accounts and messages are gone when this server ends; "
    'store = "sqlite:chat.db" would keep them',
    "the server starts with a store that keeps nothing",
    {"store": "its kind"},
)
RELOADED: Final = Event(
    "reloaded",
    logging.INFO,
    "%(what)s was read again: %(told)s",
    "something was read again while the server runs, and is in force",
    {"what": "what was read", "told": "what is in force now"},
)
RELOAD_FAILED: Final = Event(
    "reload_failed",
    logging.ERROR,
    "%(what)s goes on with what it had: %(why)s",
    "something could not be read again, and what was in force stays so",
    {"what": "what was to be read", "why": "what is wrong"},
)
NEEDS_RESTART: Final = Event(
    "needs_restart",
    logging.WARNING,
    "changed, and in force after a restart: %(settings)s",
    "settings were read again, and some that have changed cannot while the server runs",
    {"settings": "their names"},
)
DRAIN_BEGUN: Final = Event(
    "drain_begun",
    logging.INFO,
    "draining %(connections)s connections, for up to %(seconds)s s",
    "no more connections are taken, and those that are open are about to end",
    {"connections": "how many are open", "seconds": "what the drain may take at the most"},
)
DRAIN_ENDED: Final = Event(
    "drain_ended",
    logging.INFO,
    "drained in %(seconds)s s: %(finished)s connections finished, %(cut)s were cut; "
    "%(served)s were served in all",
    "all connections have ended",
    {
        "finished": "how many ended with all their replies",
        "cut": "how many did not end in time, and were cut",
        "served": "how many were served since the listener was made",
        "seconds": "what the drain took",
    },
)

# -- logins and accounts --------------------------------------------------------------------

LOGIN: Final = Event(
    "login",
    logging.INFO,
    "%(username)s logged in from %(address)s by %(by)s",
    "somebody has logged in; coming back to a session is `session_resumed`",
    {"username": _USERNAME, "address": _ADDRESS, "by": "`password` or `certificate`"},
    by=_BY_ACCOUNT,
    many="logins",
)
LOGIN_FAILED: Final = Event(
    "login_failed",
    logging.INFO,
    "login as %(username)s from %(address)s failed: %(why)s",
    "a login was refused, since what it showed does not open the account",
    {
        "username": f"{_TRIED}; where a certificate was shown, the one that it names",
        "address": _ADDRESS,
        "why": "`wrong_password`, `no_account`, `no_username` (no account can have such a name), "
        "`certificate` (it opens nothing), `account_disabled` or `password_change_required` (the "
        "password was right)",
    },
    by=_BY_ADDRESS,
    many="failed logins",
)
LOGIN_SLOWED: Final = Event(
    "login_slowed",
    logging.WARNING,
    "logins as %(username)s from %(address)s are locked out for %(seconds)s s",
    "a login was refused before its password was looked at, since too many have failed",
    {
        "username": _TRIED,
        "address": _ADDRESS,
        "seconds": "until the next one is looked at",
    },
    by=_BY_ADDRESS,
    many="locked-out logins",
)
SESSION_RESUMED: Final = Event(
    "session_resumed",
    logging.DEBUG,
    "%(username)s came back to a session from %(address)s",
    "somebody came back to an open session, or has opened a second line of it",
    {"username": _USERNAME, "address": _ADDRESS},
    by=_BY_ACCOUNT,
    many="resumed sessions",
)
LOGOUT: Final = Event(
    "logout",
    logging.INFO,
    "%(username)s logged out from %(address)s",
    "somebody has ended a session of theirs",
    {"username": _USERNAME, "address": _ADDRESS},
    by=_BY_ACCOUNT,
    many="logouts",
)
SESSION_REVOKED: Final = Event(
    "session_revoked",
    logging.INFO,
    "a session of %(username)s was ended: %(why)s",
    "the server has ended a session; what a changed password or a deleted account ends goes "
    "without saying",
    {
        "username": _USERNAME,
        "why": "`too_many_sessions`, `certificate_expired`, `certificate_revoked` or `idle`",
    },
    by=("username",),
    many="sessions ended",
)
PASSWORD_CHANGED: Final = Event(
    "password_changed",
    logging.INFO,
    "%(username)s changed the password from %(address)s; all other sessions of the account ended",
    "an account has another password",
    {"username": _USERNAME, "address": _ADDRESS},
    by=_BY_ACCOUNT,
    many="changes of the password",
)
PASSWORD_REFUSED: Final = Event(
    "password_refused",
    logging.INFO,
    "%(username)s gave a wrong password from %(address)s, to %(op)s",
    "who has an open session gave a wrong password for what needs one",
    {
        "username": _USERNAME,
        "address": _ADDRESS,
        "op": "`change_password` or `delete_account`",
    },
    by=_BY_ADDRESS,
    many="wrong passwords on open sessions",
)
ACCOUNT_CREATED: Final = Event(
    "account_created",
    logging.INFO,
    "account %(username)s was created from %(address)s",
    "somebody has created an account, and is logged in to it",
    {"username": _USERNAME, "address": _ADDRESS},
)
ACCOUNT_ADDED: Final = Event(
    "account_added",
    logging.INFO,
    "account %(username)s was added",
    "the operator, or the program that embeds the service, has created an account",
    {"username": _USERNAME},
)
ACCOUNT_DELETED: Final = Event(
    "account_deleted",
    logging.INFO,
    "account %(username)s was deleted from %(address)s",
    "somebody has deleted their account, with its mailbox and its sessions",
    {"username": _USERNAME, "address": _ADDRESS},
)
REGISTRATION_REFUSED: Final = Event(
    "registration_refused",
    logging.INFO,
    "no account was created from %(address)s: %(why)s",
    "an account was not created, since it was not allowed",
    {"address": _ADDRESS, "why": "`registration_closed`, `invitation_invalid` or `rate_limited`"},
    by=_BY_ADDRESS,
    many="refused registrations",
)

# -- the operator ---------------------------------------------------------------------------

ADMIN_ASKED: Final = Event(
    "admin_asked",
    logging.DEBUG,
    "%(op)s was asked for on the admin socket, by %(by)s",
    "something was asked for on the admin socket, before it is carried out",
    {"op": "what was asked for", "by": _BY},
)
ADMIN_REFUSED: Final = Event(
    "admin_refused",
    logging.WARNING,
    "%(by)s may not use the admin socket",
    "somebody has connected to the admin socket who is neither root nor the server's user",
    {"by": _BY},
)
ADMIN_ACTION: Final = Event(
    "admin_action",
    logging.INFO,
    "%(told)s, by %(by)s",
    "an operator has done something to an account, a mailbox, an invitation or the server",
    {
        "action": "`kick`, `disable`, `enable`, `reset_password`, `set_quota`, `delete`, `export`, "
        "`invite`, `withdraw_invitation`, `drain`, `reload` or `log_level`",
        "by": _BY,
        "username": "the account that it was done to, or null",
        "told": "what was done, as a sentence",
    },
)

# -- connections ----------------------------------------------------------------------------

CONNECTION_REFUSED: Final = Event(
    "connection_refused",
    logging.WARNING,
    "connection from %(address)s refused: %(why)s",
    "a connection was ended at once, for there are too many",
    {
        "address": _ADDRESS,
        "why": "`connections` or `connections_per_address`: the setting that it was beyond",
    },
    by=_BY_ADDRESS,
    many="refused connections",
)
LISTENER_SHORT: Final = Event(
    "listener_short",
    logging.WARNING,
    "%(why)s; trying again every %(seconds)s s",
    "the system has no descriptor, thread or memory for another connection; it is told once, until "
    "there is enough again",
    {"why": "what there is too little of", "seconds": "between two tries"},
)
PROXY_REFUSED: Final = Event(
    "proxy_refused",
    logging.WARNING,
    "connection from %(address)s refused: %(why)s",
    "a connection was to begin with a proxy's word for its peer, and did not, or from nobody who "
    "is trusted",
    {"address": "of the proxy, or of who passes for one", "why": "what is wrong"},
    by=_BY_ADDRESS,
    many="connections refused as a proxy's",
)
TLS_FAILED: Final = Event(
    "tls_failed",
    logging.INFO,
    "connection from %(address)s: %(why)s",
    "TLS has failed, in most cases before anything was said",
    {"address": _ADDRESS, "why": "what has failed"},
    by=_BY_ADDRESS,
    many="failures of TLS",
)
CONNECTION_FAILED: Final = Event(
    "connection_failed",
    logging.INFO,
    "connection from %(address)s: %(why)s",
    "a connection has ended otherwise than it should: its peer has broken the protocol, was too "
    "slow, or has gone away in the middle",
    {"address": _ADDRESS, "why": "what was wrong"},
    by=_BY_ADDRESS,
    many="failed connections",
)

# -- the store ------------------------------------------------------------------------------

STORE_UNAVAILABLE: Final = Event(
    "store_unavailable",
    logging.ERROR,
    "the store cannot be used: %(why)s",
    "the store does not answer; it is asked again every 15 s",
    {"why": "what it has said"},
)
STORE_AVAILABLE: Final = Event(
    "store_available",
    logging.WARNING,
    "the store can be used again, after %(seconds)s s",
    "the store answers again",
    {"seconds": "since it was noticed that it does not"},
)
DURABILITY_LOWERED: Final = Event(
    "durability_lowered",
    logging.ERROR,
    "what is acknowledged from now on has durability %(durability)s; it was %(before)s",
    "what the store acknowledges survives less than before",
    {"durability": "from now on", "before": "until now"},
)
DURABILITY_RAISED: Final = Event(
    "durability_raised",
    logging.WARNING,
    "what is acknowledged from now on has durability %(durability)s; it was %(before)s",
    "what the store acknowledges survives more than before",
    {"durability": "from now on", "before": "until now"},
)

CLOCK_OFF: Final = Event(
    "clock_off",
    logging.WARNING,
    "this machine's clock is %(seconds)s s off the store's (above 0: ahead)",
    "this machine's clock differs from the store's by two seconds or more",
    {"seconds": "how far it is ahead; below 0, how far behind"},
)
CLOCK_AGREES: Final = Event(
    "clock_agrees",
    logging.WARNING,
    "this machine's clock agrees with the store's again",
    "the two clocks agree again",
    {},
)
CLOCK_REFUSED: Final = Event(
    "clock_refused",
    logging.ERROR,
    "%(why)s",
    "this machine's clock is so far off the store's that the server ends",
    {"seconds": "as for `clock_off`", "why": "what is wrong, as a sentence"},
)
SERVERS_SILENT: Final = Event(
    "servers_silent",
    logging.WARNING,
    "nothing has been heard of the other servers for %(seconds)s s: mail and the end of sessions "
    "may be noticed late",
    "the store does not tell this server of what others do",
    {"seconds": "for how long"},
)
SERVERS_HEARD: Final = Event(
    "servers_heard",
    logging.WARNING,
    "the other servers are heard of again",
    "the store tells this server again of what others do",
    {},
)

# -- the log --------------------------------------------------------------------------------

REPEATED: Final = Event(
    "repeated",
    logging.INFO,
    "events were counted: %(counts)s",
    "events were counted instead of told one by one. It is told after a minute and then more "
    "rarely, at the end, and as soon as a log that was not read is read again; its level is the "
    "highest of the events",
    {
        "address": "whose events they are, a network for IPv6; null for several, and for all that "
        "have no place of their own",
        "addresses": "where they are of several: how many each has, by address; else empty",
        "username": "the account, where they are all of one; else null",
        "counts": "how many there were, by the names of the events",
        "accounts": "how many accounts were meant by them, as far as accounts have those names",
        "seconds": "in how many seconds, before this line",
    },
)


def _declared() -> Iterator[Event]:
    return (each for each in globals().values() if isinstance(each, Event))


EVENTS: Final[Mapping[str, Event]] = MappingProxyType({each.name: each for each in _declared()})
"""All of them, by their names, in the order of the documentation."""


class _Shown(dict[str, Any]):
    """Fields as a sentence shows them."""

    def __getitem__(self, name: str) -> object:
        value = super().__getitem__(name)
        if value is None or value == "":
            return "(unknown)"  # no username and no address looks like this
        if isinstance(value, float):
            return f"{value:.3g}"
        if isinstance(value, int):
            return f"{value:,}"
        return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def emit(event: Event, **fields: object) -> None:
    """Tell of an event; from any thread that holds no lock.

    Args:
        event: of the table.
        fields: exactly those that the table has.
    """
    if log.isEnabledFor(event.level):
        log.log(
            event.level,
            event.sentence,
            *((_Shown(fields),) if fields else ()),
            extra={"event": event.name, "fields": fields},
            stacklevel=2,
        )


def record_of(
    event: Event, fields: dict[str, Any], *, level: int, message: str
) -> logging.LogRecord:
    """Return the record of an event, for a log that tells of events itself.

    Args:
        event: of the table.
        fields: exactly those that the table has.
        level: which it is told at.
        message: the sentence for a person.
    """
    return logging.makeLogRecord(
        {
            "name": log.name,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": message,
            "event": event.name,
            "fields": fields,
        }
    )
