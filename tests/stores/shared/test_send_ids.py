"""What servers remember of each other's sends: none too few, and not more than is bounded."""

from typing import Any

import pytest
from shared_engines import ENGINES, nodes_on
from store_samples import HOUR, draft

from twinline.core.store import MailboxPolicy


def test_an_idle_server_forgets_no_send_id_of_another(request: pytest.FixtureRequest) -> None:
    policy = MailboxPolicy(send_id_hours=1)
    with nodes_on("postgresql", request, policy, 2) as (idle, busy):
        idle.mailboxes.create("bob")
        for number in range(64):  # enough for it to remove what is too old by them
            idle.mailboxes.append("bob", draft("hi", send_id=f"{number}", sent_at=0))
        first = busy.mailboxes.append("bob", draft("hi", send_id="new", sent_at=30 * HOUR))
        chores: Any = vars(idle)["_chores"]
        chores._expire()
        again = draft("hi", send_id="new", sent_at=30 * HOUR + 1)
        assert busy.mailboxes.append("bob", again) == first


@pytest.mark.parametrize("engine", ENGINES)
def test_servers_together_remember_no_more_than_is_bounded(
    engine: str, request: pytest.FixtureRequest
) -> None:
    policy = MailboxPolicy(send_ids_per_mailbox=6, send_ids_per_sender=4)
    with nodes_on(engine, request, policy, 2) as nodes:
        nodes[0].mailboxes.create("bob")
        # The first one has counted them, and then does not see the one that the other adds.
        for number, at in enumerate((0, 0, 0, 0, 0, 1, 0)):
            sent = draft("hi", sender=f"s{number // 3}", send_id=f"{number}")
            nodes[at].mailboxes.append("bob", sent)
        for number in (6, 5, 4, 3, 2, 1, 0):
            again = draft("hi", sender=f"s{number // 3}", send_id=f"{number}")
            receipt = nodes[0].mailboxes.append("bob", again)
            assert (receipt.message_id == again.message_id) is (number == 0), number
