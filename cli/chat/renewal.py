"""Opens another session where the one of a talk has ended in the middle: with the person's help.

It was revoked elsewhere, has expired, or its account has gone with a server that keeps all in
memory alone. What is typed, and what waits to be sent, stays where it is meanwhile.
"""

from twinline.cli.chat.conversation import Screen
from twinline.cli.console.errors import sentence
from twinline.core.errors import (
    InvalidPassword,
    InvitationInvalid,
    PasswordChangeRequired,
    RegistrationClosed,
    RequestError,
    UsernameTaken,
)
from twinline.core.protocol import PASSWORD_CHARACTERS, SessionReply
from twinline.transports.client import Client, ClientClosed, ClientError


def open_again(client: Client, screen: Screen, username: str) -> SessionReply:
    """Return a session of an account, asking for its password until it is right.

    Args:
        client: has no session.
        screen: asks.
        username: whose session has ended.

    Raises:
        Declined: the person wants none.
        ClientClosed: the talk was ended meanwhile.
    """
    while True:
        password = screen.ask_password(f"Password for {username}", known=True)
        try:
            try:
                return client.login(username, password)
            except PasswordChangeRequired as error:
                screen.complain(sentence(error))
            new = _new_password(screen, f"New password for {username}")
            return client.login(username, password, new_password=new)
        except ClientClosed:
            raise
        except (RequestError, ClientError) as error:
            screen.complain(sentence(error))


def create_again(client: Client, screen: Screen, username: str) -> SessionReply | None:
    """Create an account that is gone, if the person wants it; None: it is not created.

    Args:
        client: has no session.
        screen: asks.
        username: of the account.

    Raises:
        Declined: the person leaves a question.
        ClientClosed: the talk was ended meanwhile.
    """
    if not screen.confirm(f"Create {username} again?"):
        return None
    while True:
        password = _new_password(screen, f"New password for {username}")
        try:
            return client.create_account(username, password)
        except ClientClosed:
            raise
        except (RequestError, ClientError) as error:
            screen.complain(sentence(error))
            if isinstance(error, UsernameTaken | RegistrationClosed | InvitationInvalid):
                return None


def _new_password(screen: Screen, question: str) -> str:
    while True:
        password = screen.ask_password(question, known=False)
        if len(password) not in PASSWORD_CHARACTERS:
            screen.complain(sentence(InvalidPassword()))
            continue
        if screen.ask_password("The same again", known=False) == password:
            return password
        screen.complain("the two passwords differ")
