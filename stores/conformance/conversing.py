"""Rules 97 to 105, 110 to 112, 114, 115, 118 and 122 of the store kit: both sides of a talk."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, combinations
from typing import Final, NamedTuple

from twinline.core.conformance import Checks, rule
from twinline.core.errors import (
    CursorInvalid,
    MailboxFull,
    NoSuchUser,
    Refused,
    SendIdConflict,
    StoreUnavailable,
)
from twinline.core.protocol import (
    EVERY_KIND,
    TALK,
    Conversation,
    Kind,
    Kinds,
    Message,
    Receipt,
)
from twinline.core.store import (
    Accepted,
    Blocked,
    ConversationPage,
    Depths,
    Draft,
    MailboxLook,
    MailPage,
    Peer,
    PeerReceipt,
    Standing,
    Store,
)
from twinline.stores.conformance.bench import (
    ALL,
    DAY,
    HOUR,
    NOW,
    StoreBench,
    everything,
    outcomes,
    seqs,
)

SENT: Final[Kinds] = frozenset({Kind.SENT})
RECEIPT: Final[Kinds] = frozenset({Kind.RECEIPT})
KINDS: Final[tuple[Kinds, ...]] = tuple(
    frozenset(some)
    for some in chain.from_iterable(combinations(Kind, count) for count in range(1, len(Kind) + 1))
)
"""Every choice of kinds."""
_LIMITS: Final = ((1, ALL), (2, ALL), (3, 4), (ALL, 0), (ALL, 5), (ALL, ALL))
"""Of a page: how many entries, and how many bytes."""


class Entry(NamedTuple):
    """An entry as a mailbox should have it.

    Attributes:
        kind: what it is.
        peer: the name of the account at the other side, as `Talkers` has it.
        model: as it is read.
    """

    kind: Kind
    peer: str
    model: Message | Receipt


class Talkers:
    """Accounts that write to each other, and what their mailboxes should have.

    Attributes:
        boxes: the mailboxes.
        ids: their account ids, by name. What is before a dot is the username, so that two of them
            can have one.
        entries: what each mailbox should have, by name, by rising seq.
        last: the last seq of each.
    """

    def __init__(self, bench: StoreBench, store: Store, *names: str) -> None:
        self.boxes = store.mailboxes
        self.ids: dict[str, str] = {}
        self.entries: dict[str, list[Entry]] = {}
        self.last: dict[str, int] = {}
        self._bench = bench
        for name in names:
            self.add(name, bench.mailbox(store))

    def add(self, name: str, account_id: str) -> None:
        """Take in an account that has an empty mailbox."""
        self.ids[name] = account_id
        self.entries[name] = []
        self.last[name] = 0

    def draft(
        self,
        sender: str,
        to: str,
        body: str = "hello",
        *,
        sent_at: int = NOW,
        send_id: str | None = None,
        copy: bool = True,
    ) -> Draft:
        """Return a message that asks for a copy, under a send_id that was not used before."""
        draft = self._bench.draft(
            body, sender=_username(sender), sent_at=sent_at, send_id=send_id or self._bench.id()
        )
        to_whom = _username(to) if copy else None
        return draft._replace(sender_id=self.ids[sender], copy_to=to_whom)

    def append(self, to: str, draft: Draft) -> Accepted:
        """Append a message to somebody's mailbox, and expect nothing."""
        return self.boxes.append(self.ids[to], draft)

    def send(
        self,
        sender: str,
        to: str,
        body: str = "hello",
        *,
        sent_at: int = NOW,
        copy: bool = True,
    ) -> Accepted:
        """Append a new message, and expect it in one mailbox and its copy in the other."""
        draft = self.draft(sender, to, body, sent_at=sent_at, copy=copy)
        accepted = self.append(to, draft)
        message = Message(
            seq=self._next(to),
            message_id=draft.message_id,
            sender=draft.sender,
            body=body,
            sent_at=sent_at,
        )
        self.entries[to].append(Entry(Kind.MAIL, sender, message))
        if copy and sender != to:
            seen = {"seq": self._next(sender), "to": _username(to), "n": accepted.n}
            self.entries[sender].append(Entry(Kind.SENT, to, message.model_copy(update=seen)))
        return accepted

    def receive(self, name: str, peer: str, n: int, acked_at: int = NOW) -> None:
        """Put a receipt into somebody's mailbox, and expect it instead of the last."""
        receipt = PeerReceipt(self.ids[peer], _username(peer), n, acked_at)
        self.boxes.put_receipt(self.ids[name], receipt)
        mine = self.entries[name]
        mine[:] = [each for each in mine if (each.kind, each.peer) != (Kind.RECEIPT, peer)]
        model = Receipt(seq=self._next(name), username=_username(peer), n=n, acked_at=acked_at)
        mine.append(Entry(Kind.RECEIPT, peer, model))

    def delete(self, name: str, *which: int) -> int:
        """Delete what has these places among somebody's entries; return how many there were."""
        gone = [self.entries[name][each].model.seq for each in which]
        self.entries[name] = [each for each in self.entries[name] if each.model.seq not in gone]
        return self.boxes.delete(self.ids[name], gone)

    def peer(self, name: str) -> Peer:
        """Return an account as the other side of a conversation."""
        return Peer(self.ids[name], _username(name))

    def of_kinds(self, name: str, kinds: Kinds) -> list[Entry]:
        """Return what somebody's mailbox should have of some kinds."""
        return [each for each in self.entries[name] if each.kind in kinds]

    def read(self, name: str, kinds: Kinds = EVERY_KIND) -> MailPage:
        """Return all entries of some kinds in somebody's mailbox."""
        return self.boxes.read(self.ids[name], 0, ALL, ALL, kinds)

    def copies(self, name: str) -> list[str]:
        """Return the bodies of the copies in somebody's mailbox."""
        return [each.body for each in self.read(name, SENT).messages]

    def _next(self, name: str) -> int:
        self.last[name] += 1
        return self.last[name]


def _seq_of(model: Message | Receipt) -> int:
    return model.seq


def _username(name: str) -> str:
    return name.partition(".")[0]


def _page(entries: Sequence[Entry], limit: int, max_bytes: int) -> list[Message | Receipt]:
    """Return the first entries within the limits, in the plainest way."""
    page: list[Message | Receipt] = []
    total = 0
    for entry in entries[:limit]:
        total += len(entry.model.body.encode()) if isinstance(entry.model, Message) else 0
        if page and total > max_bytes:
            break
        page.append(entry.model)
    return page


def _mail_page(page: list[Message | Receipt], position: int, seen: int, *, more: bool) -> MailPage:
    page = sorted(page, key=_seq_of)
    messages = tuple(each for each in page if isinstance(each, Message))
    receipts = tuple(each for each in page if isinstance(each, Receipt))
    return MailPage(messages, position, more, seen, receipts)


def _some_talk(bench: StoreBench) -> Talkers:
    """Return accounts of which ann has mail, copies and receipts; some acked, some gone."""
    talkers = Talkers(bench, bench.store(), "ann", "bob", "carl", "dora")
    for number, body in enumerate(("a", "é", "", "xxxx", "yy", "👋")):
        talkers.send("ann", "bob", body, sent_at=NOW + number)
        talkers.send("bob", "ann", body * 2, sent_at=NOW + number)
        talkers.receive("ann", "bob", NOW + number)
        if number % 2:
            talkers.send("ann", "carl", body, copy=number > 1)
        else:
            talkers.send("dora", "ann", body)
    talkers.receive("ann", "carl", NOW + 1)
    talkers.send("ann", "ann", "own")
    talkers.send("dora", "carl", "of another talk")
    talkers.boxes.ack(talkers.ids["ann"], 6, NOW)
    talkers.delete("ann", 1, 4, -4)
    return talkers


@rule(97, "A send that asks for it puts a copy into its sender's mailbox, exactly as it was sent.")
def copies_lie_with_their_senders(checks: Checks, bench: StoreBench) -> None:
    """Send with and without a copy, to another, to oneself, and with no mailbox of one's own."""
    store = bench.store()
    talkers = Talkers(bench, store, "ann", "bob")
    for number, body in enumerate(("plain", "", "\0é👋\r\n", "x" * 2_000)):
        talkers.send("ann", "bob", body, sent_at=NOW + number)
        talkers.send("bob", "ann", body, sent_at=NOW + number, copy=False)
    talkers.send("ann", "ann", "to myself")
    for name in ("ann", "bob"):
        for kinds in KINDS:
            expected = [each.model for each in talkers.of_kinds(name, kinds)]
            what = f"what {name}'s mailbox has of {sorted(kinds)}"
            checks.equal(list(talkers.read(name, kinds).messages), expected, what)
    kept = talkers.read("ann", SENT).messages
    checks.equal([each.kind for each in kept], [Kind.SENT] * 4, "the kinds of ann's copies")
    plain = talkers.boxes.read(talkers.ids["ann"], 0, ALL, ALL).messages
    checks.that(all(each.to is None for each in plain), "a read that asks for no kinds has copies")
    talkers.ids["nobody"] = bench.id()
    draft = talkers.draft("nobody", "bob")
    accepted = talkers.append("bob", draft)
    checks.equal(accepted.message_id, draft.message_id, "the result of a sender with no mailbox")
    checks.raises(
        NoSuchUser, lambda: talkers.read("nobody"), "reading the mailbox of a sender without one"
    )


@rule(98, "A repeat puts in a copy that is missing, as the first send had it, and never a second.")
def repeats_complete_copies(checks: Checks, bench: StoreBench) -> None:
    """Repeat what had no copy and what had one, to a full mailbox, and after it was deleted."""
    store = bench.store(mailbox_messages=2)
    talkers = Talkers(bench, store, "ann", "bob", "carl")
    talkers.append("bob", talkers.draft("carl", "bob", sent_at=NOW + 9))
    first = talkers.append("bob", talkers.draft("ann", "bob", "hi", send_id="x", copy=False))
    checks.equal(talkers.copies("ann"), [], "the copies of a send that asks for none")

    def repeat(when: str, expected: Accepted = first) -> None:
        again = talkers.draft("ann", "bob", "hi", send_id="x", sent_at=NOW + HOUR)
        checks.equal(talkers.append("bob", again), expected, f"the result of a repeat {when}")
        copies = [
            (each.message_id, each.sender, each.to, each.body, each.sent_at, each.n)
            for each in talkers.read("ann", SENT).messages
        ]
        copy = (expected.message_id, "ann", "bob", "hi", expected.sent_at, expected.n)
        checks.equal(copies, [copy], f"the copies after a repeat {when}")

    repeat("that asks for a copy, to a mailbox that is full")
    repeat("when there is a copy")
    conflict = talkers.draft("ann", "bob", "ho", send_id="x")
    checks.raises(SendIdConflict, lambda: talkers.append("bob", conflict), "another body")
    checks.equal(talkers.copies("ann"), ["hi"], "the copies after another body was refused")
    full = talkers.draft("ann", "bob", "ho", send_id="y")
    checks.raises(MailboxFull, lambda: talkers.append("bob", full), "a send to a full mailbox")
    checks.equal(talkers.copies("ann"), ["hi"], "the copies after a send that was refused")
    talkers.boxes.delete(talkers.ids["ann"], seqs(talkers.read("ann", SENT)))
    repeat("when the copy was deleted")
    talkers.boxes.ack(talkers.ids["bob"], 2, NOW)
    talkers.boxes.delete(talkers.ids["bob"], [1, 2])
    repeat("when the mail was deleted")
    checks.equal(talkers.read("bob", EVERY_KIND).messages, (), "what the recipient has then")
    other = talkers.append("carl", talkers.draft("ann", "carl", "hi", send_id="x"))
    checks.that(other.message_id != first.message_id, "a send_id of another mailbox is a repeat")
    checks.equal(talkers.copies("ann"), ["hi", "hi"], "the copies of one send_id to two mailboxes")


@rule(99, "Mail alone is unread, acked, traced, or counted for the quota: no copy and no receipt.")
def mail_alone_counts(checks: Checks, bench: StoreBench) -> None:
    """Have more copies and receipts than a mailbox may have mail, and ack among them."""
    store = bench.store(mailbox_messages=2, history_messages=100)
    talkers = Talkers(bench, store, "ann", *(f"p{number}" for number in range(4)))
    boxes, ann = talkers.boxes, talkers.ids["ann"]
    talkers.send("p0", "ann", "é")
    for number in range(4):
        talkers.send("ann", f"p{number}", "four")
        talkers.receive("ann", f"p{number}", NOW)
    checks.equal(boxes.standing(ann), Standing(0, 1), "the standing with one message")
    checks.equal(boxes.usage(ann), (1, 1, 18, None, 4), "what it holds")
    if boxes.depths() is not None:
        deep = bench.seen(boxes.depths, Depths(5, 1, 0))
        checks.equal(deep, Depths(5, 1, 0), "how full the mailboxes are")
    copied = talkers.read("ann", SENT).messages[0].message_id
    checks.equal(boxes.trace(copied, ann, now=NOW), None, "a copy traced in its mailbox")
    found = boxes.trace(copied, now=NOW)
    where = None if found is None else found.account_id
    checks.equal(where, talkers.ids["p0"], "in which mailbox a message with a copy is traced")
    talkers.send("p0", "ann")
    draft = talkers.draft("p0", "ann")
    checks.raises(MailboxFull, lambda: talkers.append("ann", draft), "one more than the quota")
    checks.equal(
        talkers.send("ann", "p3").n, NOW + 1, "the result of a send from a mailbox that is full"
    )
    checks.equal(boxes.ack(ann, 9, NOW)[:2], (9, 1), "an ack of the seq of a receipt")
    checks.equal(boxes.ack(ann, 11, NOW)[:2], (11, 0), "an ack of the seq of a copy")
    checks.equal(seqs(boxes.read(ann, 0, ALL, ALL)), [1, 10], "the mail that is left")
    checks.equal(len(talkers.copies("ann")), 5, "how many copies are left")
    checks.equal(len(talkers.read("ann", RECEIPT).receipts), 4, "how many receipts are left")
    gone = talkers.delete("ann", 0, 1, 2)
    checks.equal(gone, 3, "how many a message, a copy and a receipt are that were deleted")
    for kinds in KINDS:
        expected = [each.model.seq for each in talkers.of_kinds("ann", kinds)]
        page = talkers.read("ann", kinds)
        left = sorted([*seqs(page), *(each.seq for each in page.receipts)])
        checks.equal(left, expected, f"what is left of {sorted(kinds)}")
    checks.equal(boxes.standing(ann), Standing(11, 0), "the standing then")
    checks.equal(boxes.usage(ann), (1, 0, 22, None, 4), "what it holds then")


@rule(100, "read() gives entries of its kinds; `seen` passes over others, and over none of these.")
def reading_takes_kinds(checks: Checks, bench: StoreBench) -> None:
    """Read every choice of kinds from every seq with many limits, and page by page."""
    talkers = _some_talk(bench)
    boxes, ann, last = talkers.boxes, talkers.ids["ann"], talkers.last["ann"]
    for kinds in KINDS:
        entries = talkers.of_kinds("ann", kinds)
        for after in range(last + 1):
            beyond = [each for each in entries if each.model.seq > after]
            for limit, max_bytes in _LIMITS:
                page = _page(beyond, limit, max_bytes)
                more = len(page) < len(beyond)
                seen = page[-1].seq if more else last
                expected = _mail_page(page, 6, seen, more=more)
                what = f"read(after={after}, {limit}, {max_bytes}, {sorted(kinds)})"
                checks.equal(boxes.read(ann, after, limit, max_bytes, kinds), expected, what)
            # A look that asks for nothing has passed over nothing.
            nothing = boxes.look(MailboxLook(ann, after, 0, ALL, None, NOW, kinds))
            expected = _mail_page([], 6, after, more=False)
            checks.equal(nothing, expected, f"a look at none of {sorted(kinds)} after {after}")
        checks.raises(
            CursorInvalid,
            lambda: boxes.read(ann, last + 1, 1, ALL, kinds),  # noqa: B023 - called at once
            f"reading {sorted(kinds)} beyond the last seq",
        )
    bob = talkers.ids["bob"]
    after, read = 0, []
    while (page_of_two := boxes.read(bob, after, 2, ALL, TALK)).more:
        read += seqs(page_of_two)
        after = page_of_two.seen
    read += seqs(page_of_two)
    whole = [each.model.seq for each in talkers.of_kinds("bob", TALK)]
    checks.equal(read, whole, "what is read in pages, each from where the last has seen")
    talkers.send("bob", "carl")
    new = boxes.read(bob, page_of_two.seen, 2, ALL, SENT)
    checks.equal(seqs(new), [talkers.last["bob"]], "a copy beyond where all was seen")


@rule(101, "history() gives the last entries of its kinds; with a peer, those of that one alone.")
def history_takes_kinds_and_a_peer(checks: Checks, bench: StoreBench) -> None:
    """Ask for every choice of kinds and each peer before some seqs with many limits."""
    talkers = _some_talk(bench)
    boxes, ann, last = talkers.boxes, talkers.ids["ann"], talkers.last["ann"]
    for peer in (None, "bob", "carl", "dora", "ann", "nobody"):
        whose = None if peer is None else Peer(talkers.ids.get(peer), peer)
        for kinds in KINDS:
            entries = [
                each
                for each in reversed(talkers.of_kinds("ann", kinds))
                if peer in {None, each.peer}
            ]
            for before in (None, 0, 1, 9, 15, last + 9):
                below = [each for each in entries if before is None or each.model.seq < before]
                for limit, max_bytes in _LIMITS:
                    page = _page(below, limit, max_bytes)
                    more = len(page) < len(below)
                    expected = _mail_page(page, 6, page[-1].seq if more else 0, more=more)
                    seen = boxes.history(
                        ann, before, limit, max_bytes, NOW, kinds=kinds, peer=whose
                    )
                    what = (
                        f"history(before={before}, {limit}, {max_bytes}, {sorted(kinds)}, {peer})"
                    )
                    checks.equal(seen, expected, what)
    whole = [each.model.seq for each in talkers.of_kinds("ann", TALK) if each.peer == "bob"]
    going_on: int | None = None
    pages: list[int] = []
    for _ in whole:  # more than there are pages
        page_of_two = boxes.history(
            ann, going_on, 2, ALL, NOW, kinds=TALK, peer=talkers.peer("bob")
        )
        pages[:0] = seqs(page_of_two)
        going_on = page_of_two.seen
        if not page_of_two.more:
            break
        # What comes meanwhile, of the same time, is beyond all pages that are left.
        talkers.send("ann", "bob", "meanwhile")
        talkers.send("bob", "ann", "meanwhile")
    checks.equal(pages, whole, "a conversation in pages, each from where the last has seen")


@rule(102, "Of two accounts that had one name, one after the other, each is a conversation.")
def reused_names_are_other_conversations(checks: Checks, bench: StoreBench) -> None:
    """Write to and hear from an account, and from the next one of its name; then it goes too."""
    store = bench.store()
    talkers = Talkers(bench, store, "ann", "dora.1", "bob")
    boxes, ann = talkers.boxes, talkers.ids["ann"]

    def talk(dora: str) -> None:
        talkers.send(dora, "ann", f"from {dora}")
        talkers.send("ann", dora, f"to {dora}")
        talkers.send("bob", "ann")
        talkers.receive("ann", dora, NOW)
        boxes.drop(talkers.ids[dora])

    def history(account_id: str | None, expected: Sequence[str]) -> None:
        peer = Peer(account_id, "dora")
        page = boxes.history(ann, None, ALL, ALL, NOW, kinds=EVERY_KIND, peer=peer)
        wanted = [each.model for each in talkers.entries["ann"] if each.peer in expected]
        seen: list[Message | Receipt] = [*page.messages, *page.receipts]
        seen.sort(key=_seq_of)
        checks.equal(seen, wanted, f"the history with {', '.join(expected)}")

    talk("dora.1")
    history(None, ["dora.1"])
    talkers.add("dora.2", bench.mailbox(store))
    history(talkers.ids["dora.2"], [])
    talk("dora.2")
    history(talkers.ids["dora.2"], ["dora.2"])
    history(talkers.ids["dora.1"], ["dora.1"])
    history(None, ["dora.1", "dora.2"])
    page = boxes.conversations(ann, None, ALL, ALL, NOW)
    listed = [(each.username, each.last.body, each.unread) for each in page.conversations]
    expected = [("bob", "hello", 2), ("dora", "to dora.2", 1), ("dora", "to dora.1", 1)]
    checks.equal(listed, expected, "the conversations")


@rule(122, "A conversation says with which account it is, and by that alone all of it is found.")
def conversations_say_whose_they_are(checks: Checks, bench: StoreBench) -> None:
    """List two accounts of one name in pages of one, and read each by its id, in pages of two."""
    store = bench.store()
    talkers = Talkers(bench, store, "ann", "dora.1", "dora.2", "bob")
    boxes, ann = talkers.boxes, talkers.ids["ann"]
    for dora in ("dora.1", "dora.2"):
        for number in range(3):
            talkers.send(dora, "ann", f"{number} of {dora}")
            talkers.send("ann", dora, f"{number} to {dora}")
            talkers.receive("ann", dora, NOW + number)
            talkers.send("bob", "ann")
    boxes.drop(talkers.ids["dora.1"])
    whose, before = [], None
    for _ in talkers.ids:  # more than there are conversations
        one = boxes.conversations(ann, before, 1, ALL, NOW)
        whose += [(each.username, each.account) for each in one.conversations]
        if not one.more:
            break
        before = one.conversations[-1].last.seq
    names = ("bob", "dora.2", "dora.1")
    expected = [(_username(each), talkers.ids[each]) for each in names]
    checks.equal(whose, expected, "with whom the conversations are")
    for dora in ("dora.1", "dora.2"):
        wanted = [each.model for each in talkers.entries["ann"] if each.peer == dora]
        found: list[Message | Receipt] = []
        before = None
        for _ in wanted:  # more than there are pages
            page = boxes.history(
                ann, before, 2, ALL, NOW, kinds=EVERY_KIND, peer=Peer(talkers.ids[dora], "")
            )
            found += [*page.messages, *page.receipts]
            before = page.seen
            if not page.more:
                break
        checks.equal(sorted(found, key=_seq_of), wanted, f"what is found by the id of {dora}")
    unknown = Peer(bench.id(), "")
    nothing = boxes.history(ann, None, ALL, ALL, NOW, kinds=EVERY_KIND, peer=unknown)
    checks.equal((nothing.messages, nothing.receipts), ((), ()), "what is of an unknown id")


@rule(103, "Conversations are listed by their last messages, with how much of each is unread.")
def conversations_are_listed(checks: Checks, bench: StoreBench) -> None:
    """List them within many limits before every seq; after acks, deletions and more mail."""
    talkers = _some_talk(bench)
    ann = talkers.ids["ann"]

    def listed(position: int, when: str) -> None:
        talk = talkers.of_kinds("ann", TALK)
        last = {each.peer: each for each in talk}
        newest = sorted(last.values(), key=lambda each: -each.model.seq)
        unread = {
            peer: sum(
                (each.kind, each.peer) == (Kind.MAIL, peer) and each.model.seq > position
                for each in talk
            )
            for peer in last
        }
        for before in (None, *range(talkers.last["ann"] + 2)):
            below = [each for each in newest if before is None or each.model.seq < before]
            for limit, max_bytes in _LIMITS:
                messages = _page(below, limit, max_bytes)
                page = tuple(
                    Conversation(
                        username=each.peer,
                        last=message,
                        unread=unread[each.peer],
                        account=talkers.ids[each.peer],
                    )
                    for each, message in zip(below, messages, strict=False)
                    if isinstance(message, Message)
                )
                seen = talkers.boxes.conversations(ann, before, limit, max_bytes, NOW)
                expected = ConversationPage(page, more=len(page) < len(below))
                what = f"conversations(before={before}, {limit}, {max_bytes}) {when}"
                checks.equal(seen, expected, what)

    listed(6, "at first")
    talkers.boxes.ack(ann, 12, NOW)
    talkers.send("ann", "dora", "an answer")
    listed(12, "after an ack and an answer")
    newest = [each.model.seq for each in talkers.entries["ann"]].index(talkers.last["ann"])
    talkers.delete("ann", newest, newest - 1)
    listed(12, "after the last messages were deleted")
    talkers.delete("ann", *range(len(talkers.entries["ann"])))
    listed(12, "when all is gone")


@rule(104, "Of copies, and of receipts, a mailbox keeps the newest, for the policy's days.")
def copies_have_a_bound_of_their_own(checks: Checks, bench: StoreBench) -> None:
    """Have more of each than is kept, and let them age; then keep no history at all."""
    store = bench.store(history_messages=3, history_days=1)
    talkers = Talkers(bench, store, "ann", *(f"p{number}" for number in range(5)))
    boxes, ann = talkers.boxes, talkers.ids["ann"]

    def kept(now: int) -> tuple[list[str], list[str], list[str]]:
        page = boxes.history(ann, None, ALL, ALL, now, kinds=EVERY_KIND)
        return (
            [each.body for each in page.messages if each.to is None],
            [each.body for each in page.messages if each.to is not None],
            [each.username for each in page.receipts],
        )

    for number in range(5):
        peer = f"p{number}"
        talkers.send(peer, "ann", f"m{number}")
        talkers.send("ann", peer, f"c{number}", sent_at=NOW + number * HOUR)
        talkers.receive("ann", peer, NOW, NOW + number * HOUR)
    boxes.ack(ann, talkers.last["ann"], NOW + 4 * HOUR)
    other = talkers.ids["p0"]
    talkers.send("ann", "p0", "unread", copy=False)
    boxes.ack(other, talkers.last["p0"] - 1, NOW)
    three = (["m2", "m3", "m4"], ["c2", "c3", "c4"], ["p2", "p3", "p4"])
    checks.equal(kept(NOW + 5 * HOUR), three, "of five of each kind, what is kept")
    checks.equal(talkers.copies("ann"), three[1], "the copies that are read")
    checks.equal(boxes.usage(ann).copies, 3, "how many copies are counted")
    one = (["m2", "m3", "m4"], ["c4"], ["p4"])
    checks.equal(kept(NOW + DAY + 3 * HOUR), one, "what is kept when the others are a day old")
    # How far others have acked is nothing to a mailbox some of which has aged, too.
    listed = boxes.conversations(other, None, ALL, ALL, NOW + DAY + 5 * HOUR).conversations
    checks.equal([each.last.body for each in listed], ["unread"], "another mailbox's, then")
    ages = boxes.history(other, None, ALL, ALL, NOW + DAY + 5 * HOUR, peer=talkers.peer("ann"))
    checks.equal([each.body for each in ages.messages], ["unread"], "of one of them, then")
    none: tuple[list[str], ...] = ([], [], [])
    # The conversations first: what is read may be removed as it is found to be too old.
    page = boxes.conversations(ann, None, ALL, ALL, NOW + DAY + 5 * HOUR)
    checks.equal(page, ConversationPage((), more=False), "the conversations when all is a day old")
    checks.equal(kept(NOW + DAY + 5 * HOUR), none, "what is kept then")
    late = NOW + 2 * DAY
    talkers.send("ann", "p0", "late", sent_at=late)
    talkers.receive("ann", "p1", late, late)
    checks.equal(talkers.copies("ann"), ["late"], "the copies that are left beside a new one")
    left = [each.username for each in talkers.read("ann", RECEIPT).receipts]
    checks.equal(left, ["p1"], "the receipts that are left beside a new one")
    talkers = Talkers(bench, bench.store(history_messages=0), "ann", "bob")
    talkers.send("ann", "bob")
    talkers.receive("ann", "bob", NOW)
    page_of_none = talkers.read("ann", EVERY_KIND)
    checks.equal((page_of_none.messages, page_of_none.receipts), ((), ()), "what no history keeps")


@rule(118, "A conversation loses what has aged, of either direction, and never what is unread.")
def conversations_age(checks: Checks, bench: StoreBench) -> None:
    """Have mail and copies age, each alone; by a clock that stepped back; and what is unread."""
    talkers = Talkers(bench, bench.store(history_days=1), "ann", "bob", "carl", "dora", "eve")
    boxes, ann = talkers.boxes, talkers.ids["ann"]

    def seen(at: int, expected: dict[str, list[str]], listed: Sequence[str], unread: int) -> None:
        now = NOW + at * HOUR
        page = boxes.conversations(ann, None, ALL, ALL, now)
        last = [f"{each.username}: {each.last.body}" for each in page.conversations]
        checks.equal(last, list(listed), f"the conversations after {at} h")
        waits = sum(each.unread for each in page.conversations)
        checks.equal(waits, unread, f"how much of them is unread after {at} h")
        for name, bodies in expected.items():
            for limit in (1, ALL):
                talk = boxes.history(
                    ann, None, limit, ALL, now, kinds=TALK, peer=talkers.peer(name)
                )
                what = f"{limit} of the history with {name} after {at} h"
                checks.equal([each.body for each in talk.messages], bodies[-limit:], what)

    talkers.send("bob", "ann", "mail of bob")
    talkers.send("carl", "ann", "mail of carl")
    talkers.send("ann", "carl", "late to carl", sent_at=NOW + 2 * HOUR)
    # The clock has stepped back.
    talkers.send("ann", "dora", "late to dora", sent_at=NOW + 2 * HOUR)
    talkers.send("ann", "dora", "early to dora")
    boxes.ack(ann, 2, NOW)
    talkers.send("eve", "ann", "mail of eve")
    talkers.send("ann", "eve", "to eve")
    kept = {
        "bob": ["mail of bob"],
        "carl": ["mail of carl", "late to carl"],
        "dora": ["late to dora", "early to dora"],
        "eve": ["mail of eve", "to eve"],
    }
    newest = ["eve: to eve", "dora: early to dora", "carl: late to carl", "bob: mail of bob"]
    seen(23, kept, newest, 1)
    # The mail was acked a day ago, and two of the copies were sent then.
    kept = {"bob": [], "carl": ["late to carl"], "dora": ["late to dora"], "eve": ["mail of eve"]}
    seen(25, kept, ["eve: mail of eve", "dora: late to dora", "carl: late to carl"], 1)
    kept = {"bob": [], "carl": [], "dora": [], "eve": ["mail of eve"]}
    seen(27, kept, ["eve: mail of eve"], 1)
    boxes.ack(ann, talkers.last["ann"], NOW + 27 * HOUR)
    seen(52, {**kept, "eve": []}, [], 0)


@rule(105, "Of the messages to a mailbox each has a higher `n` than the last, whatever the clock.")
def n_rises(checks: Checks, bench: StoreBench) -> None:
    """Send by clocks that stand still and step back, repeat, and take the newest away."""
    talkers = Talkers(bench, bench.store(history_messages=0), "ann", "bob", "carl")
    sent = [
        (0, 0, "ann"),
        (0, 1, "carl"),
        (-5, 2, "ann"),
        (10, 10, "ann"),
        (10, 11, "carl"),
        (3, 12, "bob"),
        (20, 20, "ann"),
    ]
    for at, n, sender in sent:
        told = talkers.send(sender, "bob", sent_at=NOW + at).n
        checks.equal(told, NOW + n, f"the n of a message of {sender} at {at} ms")
    copied = [each.n for each in talkers.read("ann", SENT).messages]
    checks.equal(copied, [], "the copies where no history is kept")
    first = talkers.append("bob", talkers.draft("ann", "bob", send_id="x", sent_at=NOW))
    checks.equal(first.n, NOW + 21, "the n of a message with a send_id")
    again = talkers.append("bob", talkers.draft("ann", "bob", send_id="x", sent_at=NOW + 99))
    checks.equal(again, first, "the result of its repeat")
    talkers.boxes.ack(talkers.ids["bob"], 8, NOW)
    checks.equal(talkers.send("ann", "bob").n, NOW + 22, "the n when all others are gone")
    checks.equal(talkers.send("ann", "carl").n, NOW, "the n in another mailbox")


@rule(110, "Of one send sent many times at once there is one message and one copy.")
def one_copy_of_many_repeats_is_kept(checks: Checks, bench: StoreBench) -> None:
    """Send each send_id four times at once, one of them with no copy."""
    talkers = Talkers(bench, bench.store(), "ann")
    store = bench.store()
    for number in bench.tries(checks):
        talkers = Talkers(bench, store, "ann", "bob")
        drafts = [
            talkers.draft("ann", "bob", send_id=f"{number}", copy=each > 0) for each in range(4)
        ]
        results = bench.race(checks, *(partial(talkers.append, "bob", one) for one in drafts))
        outcomes(checks, results, [], "sending")
        stored = talkers.read("bob").messages
        checks.equal(seqs(talkers.read("bob")), [1], "the seqs of one send_id")
        receipts = [Accepted(one.message_id, NOW, NOW) for one in stored[:1]]
        checks.equal(results, receipts * 4, "the results")
        copies = [
            Accepted(each.message_id, each.sent_at, each.n or 0)
            for each in talkers.read("ann").messages
        ]
        checks.equal(copies, receipts, "the copies")


@rule(111, "What is sent when a block is done is refused, and stored nowhere.")
def blocks_hold_at_once(checks: Checks, bench: StoreBench) -> None:
    """Send from two threads while their account is blocked."""
    store = bench.store()
    for _ in bench.tries(checks):
        talkers = Talkers(bench, store, "ann", "bob")
        boxes, bob = talkers.boxes, talkers.ids["bob"]

        def send(talkers: Talkers = talkers) -> int:
            for sent in range(200):
                try:
                    talkers.append("bob", talkers.draft("ann", "bob"))
                except Refused:
                    return sent
            return 200

        def block(talkers: Talkers = talkers, bob: str = bob) -> int:
            talkers.boxes.block(bob, Blocked(talkers.ids["ann"], "ann"))
            return talkers.boxes.standing(bob).unread

        first, second, before = results = bench.race(checks, send, send, block)
        outcomes(checks, results, [], "sending while a block is made")
        if checks.evidence:
            return
        checks.equal(first + second, before, "how many were accepted, of those when it was made")
        checks.equal(boxes.standing(bob).unread, before, "how many are stored in the end")
        checks.equal(len(talkers.copies("ann")), before, "how many copies there are")


@rule(112, "A mailbox that is dropped takes its copies and receipts along, and gets no more.")
def dropped_copies_are_gone(checks: Checks, bench: StoreBench) -> None:
    """Drop the sender, or the recipient, while copies and receipts are put in."""
    store = bench.store()
    for number in bench.tries(checks):
        talkers = Talkers(bench, store, "ann", "bob")
        gone, left = ("ann", "bob") if number % 2 else ("bob", "ann")
        talkers.send("ann", "bob", "first")
        talkers.receive("ann", "bob", NOW)

        def send(talkers: Talkers = talkers) -> None:
            for _ in range(3):
                talkers.append("bob", talkers.draft("ann", "bob"))

        def receive(talkers: Talkers = talkers) -> None:
            for n in range(1, 4):
                receipt = PeerReceipt(talkers.ids["bob"], "bob", NOW + n, NOW)
                talkers.boxes.put_receipt(talkers.ids["ann"], receipt)

        drop = partial(talkers.boxes.drop, talkers.ids[gone])
        sent, *others = bench.race(checks, send, receive, drop)
        outcomes(checks, others, [], f"a receipt while {gone} goes")
        known: list[type] = [NoSuchUser] if gone == "bob" else []
        outcomes(checks, [sent], known, f"sending while {gone} goes")
        for what, look in _looks(talkers, gone):
            checks.raises(NoSuchUser, look, f"{what} when it is gone")
        talkers.boxes.put_receipt(
            talkers.ids[gone], PeerReceipt(talkers.ids[left], left, NOW + 9, NOW)
        )
        mail = talkers.read(left, EVERY_KIND)
        checks.equal(mail.position, 0, "the position of the other's mailbox")
        if gone == "ann":
            checks.equal(len(mail.messages), 4, "how much the other has of a sender that is gone")


def _looks(talkers: Talkers, name: str) -> list[tuple[str, Callable[[], object]]]:
    boxes, account_id = talkers.boxes, talkers.ids[name]
    return [
        ("reading copies", lambda: boxes.read(account_id, 0, ALL, ALL, SENT)),
        ("its history", lambda: boxes.history(account_id, None, 9, ALL, NOW, kinds=TALK)),
        ("its conversations", lambda: boxes.conversations(account_id, None, 9, ALL, NOW)),
        ("asking whom it has blocked", lambda: boxes.blocked(account_id)),
        ("its standing", lambda: boxes.standing(account_id)),
    ]


@rule(114, "Copies, receipts, blocks and what an account has set survive a reopening.")
def conversations_survive(checks: Checks, bench: StoreBench) -> None:
    """Reopen a store with all of it; then repeat, block and send again."""
    store = bench.store(history_messages=4)
    talkers = Talkers(bench, store)
    for name in ("ann", "bob", "carl", "dora"):
        talkers.add(name, bench.user(store, name))
    ids = talkers.ids
    first = talkers.append("bob", talkers.draft("ann", "bob", "hi", send_id="x"))
    talkers.append("bob", talkers.draft("ann", "bob", "ho", send_id="y", copy=False))
    for number in range(3):
        talkers.send("ann", "carl", f"{number}")
        talkers.send("carl", "ann", f"{number}")
        talkers.receive("ann", "bob", NOW + number)
    talkers.receive("ann", "carl", NOW)
    talkers.boxes.ack(ids["ann"], 6, NOW)
    talkers.boxes.block(ids["bob"], Blocked(ids["carl"], "carl"))
    talkers.boxes.block(ids["bob"], Blocked(ids["dora"], "dora"))
    talkers.boxes.unblock(ids["bob"], ids["dora"])
    talkers.boxes.set_receipts(ids["carl"], receipts=False)

    def seen(store: Store) -> object:
        boxes = store.mailboxes
        return [
            (
                everything(boxes, account_id),
                [
                    boxes.history(
                        account_id, None, 2, ALL, NOW, kinds=TALK, peer=talkers.peer(each)
                    )
                    for each in ids
                ],
                boxes.conversations(account_id, None, ALL, ALL, NOW),
                boxes.usage(account_id),
            )
            for account_id in ids.values()
        ]

    before = seen(store)
    store = bench.reopened(store)
    talkers.boxes = store.mailboxes
    checks.equal(seen(store), before, "what is in the mailboxes")
    again = talkers.draft("ann", "bob", "hi", send_id="x", sent_at=NOW + HOUR)
    checks.equal(talkers.append("bob", again), first, "the result of a repeat")
    checks.equal(seen(store), before, "what is in the mailboxes after a repeat")
    missing = talkers.draft("ann", "bob", "ho", send_id="y", sent_at=NOW + HOUR)
    checks.equal(talkers.append("bob", missing).n, NOW + 1, "the n of a repeat")
    checks.equal(talkers.copies("ann")[-1:], ["ho"], "the copy that a repeat has put in")
    refused = talkers.draft("carl", "bob")
    checks.raises(Refused, lambda: talkers.append("bob", refused), "mail of who was blocked")
    talkers.send("dora", "bob")
    checks.equal(talkers.send("ann", "bob").n, NOW + 3, "the n of the next message but one")
    talkers.boxes.put_receipt(ids["carl"], PeerReceipt(ids["ann"], "ann", NOW, NOW))
    checks.equal(
        talkers.read("carl", RECEIPT).receipts, (), "the receipts of one who gives none of them"
    )


@rule(115, "What a send that failed has left is completed by its repeat, mail and copy.")
def failed_copies_are_completed(checks: Checks, bench: StoreBench) -> None:
    """Have a send with a copy fail, and repeat it until it does not."""
    store = bench.one_node()
    talkers = Talkers(bench, store, "ann", "bob")
    for number in range(3):
        draft = talkers.draft("ann", "bob", f"{number}")
        with bench.failing(store):
            checks.raises(
                StoreUnavailable,
                lambda: talkers.append("bob", draft),  # noqa: B023 - called at once
                "a send that fails",
            )
        again = bench.comes_true(lambda: _is_sent(talkers, draft))  # noqa: B023 - called at once
        checks.that(again, "its repeat fails for good")
        bodies = [f"{each}" for each in range(number + 1)]
        mail = [each.body for each in talkers.read("bob").messages]
        checks.equal(mail, bodies, "what the recipient has after a repeat")
        checks.equal(talkers.copies("ann"), bodies, "the copies after a repeat")


def _is_sent(talkers: Talkers, draft: Draft) -> bool:
    try:
        talkers.append("bob", draft)
    except StoreUnavailable:
        return False
    return True
