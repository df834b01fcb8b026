"""The store kit: sees whether a `Store` keeps the contract, and says in words where not.

::

    from twinline.stores.conformance import check_store

    print(check_store(lambda policy: MyStore(policy)))

It needs no test framework. A store that several servers share is also checked over several nodes of
one state (``open_nodes``): each call then goes to another node (`spread`), so that what one of them
knows the others must learn. `bench` has what the rules work on, and `history/` the judge of a
workload. These are the rules, each in the file that its group names; the contract is
`twinline.core.store`.

Accounts and their names (`accounts`):

1. An account is found by its name, every field as it was; under any other name is none.
2. A name that is in use is UsernameTaken, and nothing changes.
3. An account id that is in use is ValueError, and nothing changes.
4. A name is free when it is neither in use nor reserved; a reserved one stays taken.
5. Pages of usernames are by code point, beyond `after`, of `limit` at most, and tell `more`.
6. A password hash is replaced only instead of the one that is named; else it stays.
7. Of all who withdraw an account one is told True; it is gone, and no other is.

Sessions (`sessions`):

8. A session is found by its token's hash, every field as it was; no other hash finds one.
9. A session that needs a verified hash opens only while that is the account's hash.
10. Beyond the most sessions of an account, the one that was used longest ago ends.
11. Touching a session notes its use to within an hour, and opens none that is gone.
12. Closing a session ends it and wakes all who wait on it, and nobody else.
13. Another password ends all sessions of its account but the one that is named, and wakes them.
14. Withdrawing an account ends all its sessions, wakes who waits on them, and lets none open.

A mailbox, its seqs, and its one owner (`mailboxes`):

15. A new mailbox is empty, at position 0; an id that has one is ValueError, and it stays.
16. A message is kept exactly as it was sent, and its sender gets its id and time.
17. Each mailbox counts its messages by itself: 1, 2, 3 and so on, without a gap.
18. A seq is never used twice, whatever was deleted, acked or trimmed before.
19. Every call about a mailbox that is not there is NoSuchUser; before or after its life.
20. The two halves share nothing: a mailbox needs no account, and outlives one.
21. A new account of an old name sees nothing of the old one's mail, and gets none of it.

Pages, positions, and what is deleted (`reading`):

22. read() gives the first messages beyond a seq, within both limits, and tells `more`.
23. history() gives the last messages below a seq, within both limits, and tells `more`.
24. An ack moves the position forward, never back, and not beyond the last seq.
25. Deleting tells how many there were, and takes those from every view, and no others.
26. A call that is refused changes nothing.

Repeated sends, full mailboxes, and history (`sending`):

27. A repeat of a sender's send_id and body to a mailbox gets the first receipt, stores nothing.
28. A send_id stands for one body in one mailbox: with another there it is SendIdConflict,
    and to another mailbox, or from another sender, it is another message.
29. A send_id counts as long as the policy says; one that was refused does not count at all.
30. A mailbox with the policy's number of unacked messages is full; acking makes room.
31. Of the acked messages a mailbox keeps the newest, as many as the policy says.
32. An acked message is in the history for the policy's days after its ack, and no longer.
33. What is not acked is kept, whatever its age and however much there is.

Whom mail wakes, and how (`waking`):

34. A message wakes all who watch its mailbox, every time, and nobody else.
35. Dropping a mailbox wakes all who watch it, and nobody else.
36. Who has unsubscribed is not woken; unsubscribing ends one subscription, twice is harmless.
37. A wake is called with no lock held: another thread can use the store meanwhile.

Calls at once (`account_races`, `mail_races`):

38. Of those who create one name at once exactly one gets it, the rest UsernameTaken.
39. Of those who withdraw an account or replace its hash at once exactly one is told True.
40. No session outlives an account that is withdrawn while it opens.
41. Sessions that open at once never leave more than the most of them.
42. Messages at once get seqs without gap or repeat, each sender's in the order it sent them.
43. What a reader sees is a prefix: no seq appears behind one that it has read; no wake is lost.
44. Of one send_id sent many times at once one message is stored, and all get its receipt.
45. A mailbox never holds more than its quota, whoever sends at once.
46. A message to a mailbox that is dropped meanwhile is stored or refused, and is gone then.
47. Who subscribes and then looks misses nothing: the look shows it, or the wake comes.
48. Acks, deletes and messages at once keep the position, the count and the mail together.

What is still there when the store is opened again (`durable`):

49. Accounts and reserved names survive a reopening; what was withdrawn stays withdrawn.
50. Sessions survive a reopening, and can be ended after it; those that ended stay so.
51. Mail, positions and history survive a reopening; what was dropped stays gone.
52. A seq is not used again after a reopening, even if its message is gone.
53. Send_ids survive a reopening: a repeat still gets the first receipt.

Wakes that do what they must not (`waking`):

54. A wake that raises keeps no other from being called, and is not told to who caused it.
55. A wake that writes to the store, as it must not, is answered or refused at once.

What a login asks of an account beside its password (`logins`):

56. The accounts are counted by the profile of their password hash.
57. An address is noted for one account, with its time; the last of them are kept.
58. Profiles and addresses survive a reopening.

How many send_ids are remembered (`sending`):

59. The policy's number of send_ids is remembered of a mailbox, and of a sender in it;
    the first to come are the first to go.

Steps that are one (`account_races`), and what is left of two (`durable`):

60. Nobody sees a new password hash beside a session that the change revokes.
61. A session that is touched while it ends stays ended.
62. A name that is to stay reserved is never free, not for a moment.
63. An account is not deleted with a password that is changed meanwhile.
64. A mailbox that no account has is dropped when the store is opened again, and no other is.
65. Of a write that fails nothing is done, or all.

When a backup was put back under readers that go on (`restoring`):

66. When a store was put back, seqs jump once, and no seq of before is given out again.
67. A place inside a jump is no error; all new mail is beyond it, and is not acked by it.

In a child of the process that opened it (`forking`):

68. A forked child is refused, or stores what it says; the parent's store goes on.

Called on an event loop, where all would wait with it (`blocking`):

69. A store that says that it does not block waits for nothing where it is called.

Whose a session is (`sessions`), and who gets mail (`accounts`):

70. A session is found, touched and closed under its own account, or by its hash.
71. A recipient is the id of the account that has the name, or had it a second ago.

What a watch does for each page (`looking`):

72. A look acks and then reads, as ack() and read() do it; with a limit of 0 it reads none.
73. Many looks are answered in their order, and one that is refused is its own affair.

How a store is (`health`):

74. A store's health tells how durable it is, as it said, and an epoch that stays.
75. When a store was put back its epoch is another one, the same for all, and new each time.

What limits are counted in (`states`):

76. Of those who change one state at once none loses what it changed.
77. A state is what the last step made of it; a step that raises leaves it as it was.
78. A state is forgotten when nothing has changed it for its time, and no sooner.

Called by whoever leaves (`blocking`):

79. Unsubscribing waits for nothing and raises nothing, whatever has become of the other.

What one node does, and another must learn (`nodes`):

80. What a node does to a mailbox wakes all who watch it on every other, and shows there.
81. A session that ends on a node has ended on every other within a second,
    and wakes all who wait on it there.
82. A node under another policy is refused; one under the policy of the others is not.
83. A node that closes takes nothing from the others: they store, wake and end as before.
84. What a login asks of an account, a node that is opened later knows.
85. What a node did to an account or a mailbox is so on every other at once.

What an operator asks of it (`operating`):

86. Disabling an account ends all its sessions, and none opens until it is enabled again.
87. An account's sessions are listed, the one used last first, and closed all at once.
88. A password that is set without the old one ends every session, and may have to change.
89. An invitation makes one account before it expires, and is spent by that alone.
90. Of those who spend one invitation at once exactly one gets an account.
91. No session of an account that is disabled meanwhile is left open.
92. A mailbox's own quota holds instead of the policy's, and what it holds is counted.
93. A trace tells where a message is: waiting, acked and when, or deleted.
94. What an operator has set survives a reopening.
95. How full the mailboxes are is told by what is unread and by what each may hold.
96. A trace calls deleted what would be there still, and gone what may have expired.

Both sides of a conversation (`conversing`):

97. A send that asks for it puts a copy into its sender's mailbox, exactly as it was sent.
98. A repeat puts in a copy that is missing, as the first send had it, and never a second.
99. Mail alone is unread, acked, traced, or counted for the quota: no copy and no receipt.
100. read() gives entries of its kinds; `seen` passes over others, and over none of these.
101. history() gives the last entries of its kinds; with a peer, those of that one alone.
102. Of two accounts that had one name, one after the other, each is a conversation.
103. Conversations are listed by their last messages, with how much of each is unread.
104. Of copies, and of receipts, a mailbox keeps the newest, for the policy's days.
105. Of the messages to a mailbox each has a higher `n` than the last, whatever the clock.

Receipts, blocked accounts, and whom each kind wakes (`receipts`):

106. An ack tells whose mail it has passed, and the last `n` of each, for receipts.
107. A receipt takes the place of its account's last one, under a new seq, if `n` is higher.
108. Mail of a blocked account is Refused and stored nowhere; all that is not blocked comes.
109. An entry wakes who watches its kind, and nobody else; the end of a mailbox wakes all.

Conversations at once, and what is left of them (`conversing`, `receipts`):

110. Of one send sent many times at once there is one message and one copy.
111. What is sent when a block is done is refused, and stored nowhere.
112. A mailbox that is dropped takes its copies and receipts along, and gets no more.
113. Of receipts of one account that come at once the highest stays, and no other.
114. Copies, receipts, blocks and what an account has set survive a reopening.
115. What a send that failed has left is completed by its repeat, mail and copy.

What else one node does, and another must learn (`nodes`):

116. A copy or a receipt that a node puts in wakes who watches its kind on every other,
     and shows there.
117. Whom a node blocks, and whether a mailbox gives receipts, is so on every other at once.

What ages in a conversation, and what a block meets (`conversing`, `refusing`):

118. A conversation loses what has aged, of either direction, and never what is unread.
119. A send_id is looked for before a block, and that before room; the copy follows suit.
120. Of one send that is sent many times while it is blocked, all are accepted or none.
121. What is put in when an account takes no receipts, or blocks their giver, is ignored.

Who is at the other side of a conversation (`conversing`):

122. A conversation says with which account it is, and by that alone all of it is found.

Over several nodes, rules 56 to 58, 65, 68, 69, 79, 94 and 115 are about one of them.
"""

from collections.abc import Collection
from typing import Final

from twinline.core.conformance import (
    ConformanceError,
    ConformanceReport,
    Failure,
    Progress,
    Rule,
    check_rules,
    rules_of,
)
from twinline.stores.conformance import (
    account_races,
    accounts,
    blocking,
    conversing,
    durable,
    forking,
    health,
    logins,
    looking,
    mail_races,
    mailboxes,
    nodes,
    operating,
    reading,
    receipts,
    refusing,
    restoring,
    sending,
    sessions,
    states,
    waking,
)
from twinline.stores.conformance.bench import (
    Failing,
    OpenNodes,
    OpenStore,
    PutBack,
    Reopen,
    StoreBench,
    Subject,
)

__all__ = ["RULES", "ConformanceError", "ConformanceReport", "Failure", "check_store"]

RULES: Final[tuple[Rule[StoreBench], ...]] = rules_of(
    accounts,
    sessions,
    mailboxes,
    reading,
    sending,
    waking,
    account_races,
    mail_races,
    durable,
    logins,
    restoring,
    forking,
    blocking,
    looking,
    health,
    states,
    nodes,
    operating,
    conversing,
    receipts,
    refusing,
)
"""The rules, by number."""
_PATIENCE_SECONDS: Final = 30.0  # for one rule; it takes one or two


def check_store(
    open_store: OpenStore,
    *,
    reopen: Reopen | None = None,
    failing: Failing | None = None,
    put_back: PutBack | None = None,
    open_nodes: OpenNodes | None = None,
    nodes: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
    wake_seconds: float = 5.0,
    slow: bool = False,
    only: Collection[str] | str = (),
) -> ConformanceReport:
    """Check every rule, and report all that do not hold.

    Args:
        open_store: opens a store under a policy. It is called many times, and each store must
            be new: with nothing in it, in a place of its own. The kit closes them all.
        reopen: closes a store that `open_store` made and opens what it kept again, under the
            same policy. Without it, what survives is not checked.
        failing: returns a context manager; of what is called of a store while it is entered,
            the next write fails. Without it, what a failed write leaves is not checked.
        put_back: the same, as if what it kept were a backup that was put back, for a store that
            can be: one whose epoch then changes. Without it, that seqs jump is not checked.
        open_nodes: opens so many more nodes of the state of a store that ``open_store`` made, or
            ``reopen`` or ``put_back``, as other servers would: under a policy, which it refuses if
            it is not the state's. With it each call goes to a random node, and a subscription is
            of one node; check the store without it too. The kit closes all nodes, and those beside
            the first one before it calls ``reopen`` or ``put_back`` with that.
        nodes: how many there are of each state, with ``open_nodes``.
        seed: of the ids that are used; the same one gives the same ids.
        progress: called before each rule with how many are done, how many there are, and its
            sentence.
        wake_seconds: how long to wait for a wake that should come; raise it where stores are far.
        slow: try every race many more times.
        only: the names of the rules to check, for work on one of them; none means all.

    Returns:
        What was checked.

    Raises:
        ValueError: ``only`` names a rule that there is not, or ``nodes`` is below 2.
        ConformanceError: at least one rule does not hold.
    """
    patience = _PATIENCE_SECONDS * (10 if slow else 1)

    if nodes < 2:
        raise ValueError("several nodes are two or more")
    subject = Subject(open_store, reopen, failing, put_back, open_nodes, nodes)

    def bench(rule: Rule[StoreBench]) -> StoreBench:
        seed_of_rule = f"{seed}/{rule.number}"
        return StoreBench(subject, seed_of_rule, wake_seconds=wake_seconds, slow=slow)

    return check_rules("the store", RULES, bench, only=only, progress=progress, patience=patience)
