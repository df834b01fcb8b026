"""The streams of the vectors are what a server says: each is held with the real rules."""

import json
from pathlib import Path

import pytest
from services import PASSWORD, enter, login, make_service
from streams import receive_replies

from twinline.core.protocol import REQUEST_BY_OP, ErrorReply, Login
from twinline.transports.contract import ReplyReceived
from twinline.transports.listener import ListenerSettings
from twinline.transports.listener.conversation import Conversation
from twinline.transports.registry import transport

VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "protocol-vectors.json").read_text())
START = 41
"""What every conversation begins with: messages up to here, all of them acknowledged."""
LIMIT = 1 << 20


class Served:
    """A conversation of one connection, whose peer is bob: logged in, and with mail from ann."""

    def __init__(self, name: str) -> None:
        self.now = 0.0
        self.service = make_service()
        self.ann, self.bob = enter(self.service, "ann"), enter(self.service, "bob")
        self.stored = 0
        self.deliver(START)
        self.service.ack(self.bob, START)
        self.client = transport(name).client_codec(LIMIT)
        self.conversation = Conversation(
            transport(name).server_codec(LIMIT),
            self.service,
            ListenerSettings(),
            address="127.0.0.1",
            on_mail=self.woken,
            on_end=lambda: None,
            clock=lambda: self.now,
        )
        (logged_in,) = self.ask(9, Login(username="bob", password=PASSWORD))
        assert logged_in.reply.position == START

    def woken(self) -> None:
        self.conversation.look_again()

    def deliver(self, seq: int) -> None:
        """Have ann send until this seq is there."""
        while self.stored < seq:
            self.stored += 1
            self.service.send(self.ann, "bob", f"no. {self.stored}")

    def ask(self, number, request) -> list[ReplyReceived]:
        self.client.send(number, request)
        self.conversation.receive_data(self.client.data_to_send())
        return self.go_on()

    def go_on(self) -> list[ReplyReceived]:
        """Carry out what there is to do, and return the replies."""
        said = b""
        while True:
            job = self.conversation.next_job()
            if job is not None:
                self.conversation.finish(self.service.handle(self.conversation.session, job))
            elif self.conversation.waits or self.conversation.ended:
                said += self.conversation.data_to_send()
                return receive_replies(self.client, [said])
            else:
                said += self.conversation.data_to_send()

    def happen(self, step) -> list[ReplyReceived]:
        """Have what a reply tells of happen, and return the replies that it has."""
        fields = step["fields"]
        if fields.get("code") == "shutting_down":
            self.conversation.drain()
        elif fields.get("code") == "session_expired":
            self.service.change_password(login(self.service, "bob"), PASSWORD, "battery staple")
        elif fields["messages"]:
            self.deliver(fields["messages"][-1]["seq"])
        else:
            self.now = self.conversation.deadline
            self.conversation.time_is_up()
        return self.go_on()


def last_seq(vector, number) -> int:
    """Return the last seq that the replies to a request bring."""
    answers = [step["fields"] for step in vector["conversation"] if step["id"] == number]
    seqs = [message["seq"] for fields in answers for message in fields.get("messages", ())]
    return max(seqs, default=START)


def shown(number, fields):
    """Return what is to be the same whoever says it: not ids of messages, times and sentences."""
    seqs = [message["seq"] for message in fields.get("messages", ())]
    return number, fields.get("code"), seqs, fields.get("position"), fields.get("more")


@pytest.mark.parametrize("name", ["jsonl", "binary"])
@pytest.mark.parametrize("vector", VECTORS["streams"], ids=lambda vector: vector["name"])
def test_a_server_holds_the_conversation(vector, name):
    served = Served(name)
    said = []
    for step in vector["conversation"]:
        if step["from"] == "client":
            request = REQUEST_BY_OP[step["op"]](**step["fields"])
            if not step["fields"].get("wait", 1):
                served.deliver(last_seq(vector, step["id"]))  # it brings what is there already
            said += served.ask(step["id"], request)
        else:
            said = said or served.happen(step)
            received = said.pop(0)
            fields = received.reply.model_dump(mode="json")
            assert isinstance(received.reply, ErrorReply) == (step["model"] == "ErrorReply")
            assert shown(received.id, fields) == shown(step["id"], step["fields"])
    assert said == []
    assert served.conversation.ended == (step["model"] == "ErrorReply")
