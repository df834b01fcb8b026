"""Opens another session where the one of a talk has ended in the middle: with the person's help.

It was revoked elsewhere, has expired, or its account has gone with a server that keeps all in
memory alone. What is typed, and what waits to be sent, stays where it is meanwhile.
"""

from twinline.cli.chat.conversation import Screen, new_password
from twinline.cli.client.gone import gone, is_gone
from twinline.cli.client.sessions import KeptSession
from twinline.cli.client.target import Target
from twinline.cli.console.errors import CommandError, sentence
from twinline.core.errors import (
    InvitationInvalid,
    PasswordChangeRequired,
    RegistrationClosed,
    RequestError,
    UsernameTaken,
)
from twinline.core.protocol import SessionReply
from twinline.transports.client import Client, ClientClosed, ClientError


def open_another(
    client: Client, screen: Screen, target: Target, ended: KeptSession
) -> SessionReply:
    """Return another session of an account.

    Args:
        client: has no session.
        screen: asks.
        target: what the client was made of.
        ended: the session.

    Raises:
        Declined: the person wants none.
        ClientClosed: the talk was ended meanwhile.
    """
    name = ended.username
    reply = None
    if is_gone(ended, client):
        screen.inform(gone(name, target.place))
        reply = _create(client, screen, name)
    else:
        screen.inform(f"the session of {name} at {target.place} has ended")
        if target.shows_certificate:
            reply = _by_certificate(client, screen, target, name)
    return reply or _by_password(client, screen, name)


def _create(client: Client, screen: Screen, username: str) -> SessionReply | None:
    """Create an account that is gone, if the person wants it; None: it is not created."""
    if not screen.confirm(f"Create {username} again?"):
        return None
    while True:
        password = new_password(screen, f"New password for {username}")
        try:
            return client.create_account(username, password)
        except ClientClosed:
            raise
        except (RequestError, ClientError) as error:
            screen.complain(sentence(error))
            if isinstance(error, UsernameTaken | RegistrationClosed | InvitationInvalid):
                return None


def _by_certificate(
    client: Client, screen: Screen, target: Target, username: str
) -> SessionReply | None:
    """Log in by the certificate, if the person wants it; None: there is no session.

    It is asked for: two chats that put an end to each other's sessions would never stop.
    """
    if not screen.confirm(f"Log in as {username} by the client certificate?"):
        return None
    try:
        return client.resume(_opened_apart(target, username))
    except ClientClosed:
        raise
    except (RequestError, ClientError, CommandError) as error:
        screen.complain(sentence(error))
        return None


def _opened_apart(target: Target, username: str) -> str:
    """Return the token of a session that a certificate has opened.

    The talk itself would go on as whoever the certificate names.

    Raises:
        CommandError: that is another account.
    """
    with target.anonymous() as apart:
        reply = apart.login_certificate()
        if reply.username != username:
            apart.logout()
            raise CommandError(f"the client certificate names {reply.username}")
    return reply.session


def _by_password(client: Client, screen: Screen, username: str) -> SessionReply:
    while True:
        password = screen.ask_password(f"Password for {username}", known=True)
        try:
            try:
                return client.login(username, password)
            except PasswordChangeRequired as error:
                screen.complain(sentence(error))
            new = new_password(screen, f"New password for {username}")
            return client.login(username, password, new_password=new)
        except ClientClosed:
            raise
        except (RequestError, ClientError) as error:
            screen.complain(sentence(error))
