"""The streams of the vectors are what a server says: each is held with the real rules."""

import json
from pathlib import Path

import pytest
from conversing import Conversing
from services import PASSWORD, login

from twinline.core.protocol import REQUEST_BY_OP, ErrorReply
from twinline.transports.contract import ReplyReceived

VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "protocol-vectors.json").read_text())
START = 41
"""What every conversation begins with: messages up to here, all of them acknowledged."""


class Served(Conversing):
    """A conversation with bob, whose mailbox is as every conversation of the vectors finds it."""

    def __init__(self, name: str) -> None:
        super().__init__(name, name)
        self.stored = 0
        self.store(START)
        self.service.ack(self.bob, START)

    def store(self, seq: int) -> None:
        """Have ann send until this seq is there."""
        while self.stored < seq:
            self.stored += 1
            self.mail(f"no. {self.stored}")

    def happen(self, step) -> list[ReplyReceived]:
        """Have what a reply tells of happen, and return the replies that it has."""
        fields = step["fields"]
        if fields.get("code") == "shutting_down":
            self.talk.drain()
        elif fields.get("code") == "session_expired":
            self.service.change_password(login(self.service, "bob"), PASSWORD, "battery staple")
        elif fields["messages"]:
            self.store(fields["messages"][-1]["seq"])
        else:
            return self.wait(self.talk.deadline - self.now)
        return self.wake()


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
                served.store(last_seq(vector, step["id"]))  # it brings what is there already
            said += served.ask(step["id"], request) + served.flush()
        else:
            said = said or served.happen(step)
            received = said.pop(0)
            fields = received.reply.model_dump(mode="json")
            assert isinstance(received.reply, ErrorReply) == (step["model"] == "ErrorReply")
            assert shown(received.id, fields) == shown(step["id"], step["fields"])
    assert said == []
    assert served.talk.ended == (step["model"] == "ErrorReply")
