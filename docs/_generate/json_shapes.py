"""Which shape each command prints with `--json`, and how often: the table of the documentation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from twinline.cli.bench.figures import Report
from twinline.cli.console.shapes import (
    Account,
    DemoStep,
    Explained,
    Exported,
    ExportedMessage,
    ExportedSession,
    FileChecked,
    InForce,
    Listening,
    LoggedIn,
    ReceiptsGiven,
    RoundTrip,
    Script,
    StoreChecked,
    StoreCopied,
    StoreMigrated,
    StoreMoved,
    StoreRestored,
    StoreStats,
    TopShown,
)
from twinline.cli.server.admin import replies
from twinline.cli.verify.messages import Verified
from twinline.core.protocol import Conversation, Message, SentReply, StatusReply


@dataclass(frozen=True, slots=True)
class Printed:
    """What a command prints.

    Attributes:
        models: of its objects.
        each: for what there is one.
        keyed: whether there is one object, with such an object for each of its keys.
    """

    models: tuple[type[BaseModel], ...]
    each: str
    keyed: bool = False


def _one(model: type[BaseModel]) -> Printed:
    return Printed((model,), "one, at the end")


_MESSAGE: Final = Printed((Message,), "one for each message")
PRINTED: Final[Mapping[str, Printed]] = {
    "demo": Printed((DemoStep,), "one for each step"),
    "serve": Printed((Listening,), "one for each endpoint, when it is ready"),
    "config show": Printed((InForce,), "one, with such an object for each setting", keyed=True),
    "config explain": _one(Explained),
    "config check": _one(FileChecked),
    "register": _one(LoggedIn),
    "login": _one(LoggedIn),
    "logout": _one(Account),
    "status": _one(StatusReply),
    "receipts": _one(ReceiptsGiven),
    "accounts": Printed((Account,), "one for each account"),
    "blocked": Printed((Account,), "one for each account"),
    "block": _one(Account),
    "unblock": _one(Account),
    "change-password": _one(Account),
    "delete-account": _one(Account),
    "chat": Printed(
        (Message, Account, StatusReply),
        "one for each message, each account of `/accounts`, and each `/status`",
    ),
    "send": Printed((SentReply,), "one for each message that was sent"),
    "watch": Printed((Message,), "one for each message; with `--exec` on COMMAND's stdin"),
    "history": _MESSAGE,
    "conversations": Printed((Conversation,), "one for each conversation"),
    "store add-account": _one(Account),
    "store check": _one(StoreChecked),
    "store backup": _one(StoreCopied),
    "store copy": _one(StoreMoved),
    "store restore": _one(StoreRestored),
    "store migrate": _one(StoreMigrated),
    "store stats": _one(StoreStats),
    "ping": Printed((RoundTrip,), "one for each round trip"),
    "verify": _one(Verified),
    "bench": _one(Report),
    "admin accounts": Printed((replies.AccountState,), "one for each account"),
    "admin sessions": Printed((replies.OpenSession,), "one for each session"),
    "admin kick": _one(replies.Kicked),
    "admin disable": _one(replies.Switched),
    "admin enable": _one(replies.Switched),
    "admin reset-password": _one(replies.OneTimePassword),
    "admin quota": _one(replies.QuotaSet),
    "admin delete": _one(replies.Deleted),
    "admin export": Printed(
        (replies.ExportedAccount, ExportedSession, ExportedMessage, Exported),
        "the account, then one for each session and each message; with `--output` one of the file",
    ),
    "admin invite": _one(replies.NewInvitation),
    "admin invitations": Printed((replies.OpenInvitation,), "one for each invitation"),
    "admin withdraw": _one(replies.OpenInvitation),
    "admin drain": Printed((replies.Draining,), "one for each node"),
    "admin reload": Printed((replies.ReadAgain,), "one for each thing, at each node"),
    "admin log-level": Printed((replies.LogLevel,), "one for each node"),
    "top": Printed((TopShown,), "one for each look"),
    "trace": _one(replies.Traced),
    "completion": _one(Script),
}
"""By the command, without the name of the program."""


def fields(model: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    """Yield each field of a shape: its name, what it is, its type."""
    for name, field in model.model_fields.items():
        yield field.alias or name, field.description or "", _type_words(field.annotation)


def inner_models(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the models of the objects within a shape."""
    found: list[type[BaseModel]] = []
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            found += [inner, *inner_models(inner)]
    return list(dict.fromkeys(found))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _type_words(annotation: Any) -> str:
    words = {int: "integer", float: "number", str: "text", bool: "true or false", NoneType: "null"}
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation in words:
        return words[annotation]
    if annotation is Any:
        return "any"
    if origin in (Union, UnionType):
        return " or ".join(map(_type_words, parts))
    if origin is Annotated:
        return _type_words(parts[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if origin is tuple:
        return f"list of {_type_words(parts[0])}"
    if origin is dict:
        return f"object of {_type_words(parts[1])}"
    if issubclass(annotation, Enum):
        return "text"
    return str(annotation.__name__)
