"""A server that did nothing for long takes nothing from those that did."""

from typing import Any

import pytest
from shared_engines import nodes_on
from store_samples import HOUR, draft

from twinline.core.store import MailboxPolicy


def test_an_idle_server_forgets_no_send_id_of_another(request: pytest.FixtureRequest) -> None:
    policy = MailboxPolicy(send_id_hours=1)
    with nodes_on("postgresql", request, policy, 2) as (idle, busy):
        idle.mailboxes.create("bob")
        idle.mailboxes.append("bob", draft("hi", send_id="old", sent_at=0))
        first = busy.mailboxes.append("bob", draft("hi", send_id="new", sent_at=30 * HOUR))
        chores: Any = vars(idle)["_chores"]
        chores._expire()
        again = draft("hi", send_id="new", sent_at=30 * HOUR + 1)
        assert busy.mailboxes.append("bob", again) == first
