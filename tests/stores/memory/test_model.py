"""The in-memory store against the plainest model of what its contract says, by random steps."""

from hypothesis import settings
from store_steps import AccountSteps, MailboxSteps

few = settings(max_examples=40, stateful_step_count=30, deadline=None)

TestMailboxes = MailboxSteps.TestCase
TestMailboxes.settings = few
TestAccounts = AccountSteps.TestCase
TestAccounts.settings = few
