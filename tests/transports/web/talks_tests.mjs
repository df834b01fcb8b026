// Tests of talks.js, the conversations behind the chat page: `node --test talks_tests.mjs`, with
// TALKS_JS in the environment.

import assert from "node:assert/strict";
import { test } from "node:test";

const { Talks } = await import(process.env.TALKS_JS);

const message = (seq, sender = "bob", at = seq) => ({
  seq, message_id: `received ${seq}`, sender, body: `no. ${seq}`, sent_at: at,
});
const copy = (seq, number, to = "bob") => ({
  seq, message_id: `sent ${number}`, sender: "ann", body: `own ${number}`, sent_at: number, to,
  n: number,
});
const written = (number, state = "sent", more = {}) => ({
  sendId: `send ${number}`, to: "bob", body: `own ${number}`, at: number, state,
  messageId: state === "sent" ? `sent ${number}` : null, n: state === "sent" ? number : null,
  error: null, ...more,
});
const page = (messages, more = {}) => ({
  messages, more: true, seen: messages[0]?.seq ?? 0, ...more,
});
const bodies = (talks, name) => talks.get(name).entries.map(({ body }) => body);
const talksOf = (base = 0, read = {}, on = {}) => new Talks("ann", { base, read }, on);

test("all stands in the mailbox's order, what has no copy by the clock, what waits comes last", () => {
  const talks = talksOf();
  talks.putSent(written(25, "sending", { at: 1 }));
  talks.receive(message(10));
  talks.putSent(written(15));
  talks.receive(message(20));
  assert.deepEqual(bodies(talks, "bob"), ["no. 10", "own 15", "no. 20", "own 25"]);
  talks.receive(message(30));
  assert.deepEqual(bodies(talks, "bob").slice(-2), ["no. 30", "own 25"]);
  talks.putSent(written(25)); // stored, before the last one was
  assert.deepEqual(bodies(talks, "bob").slice(-2), ["own 25", "no. 30"]);
  talks.receive(copy(31, 25)); // after it, says the mailbox
  assert.deepEqual(bodies(talks, "bob").slice(-2), ["no. 30", "own 25"]);
  talks.receive(message(32, "bob", 5)); // of a server whose clock is late
  assert.equal(talks.get("bob").last.body, "no. 32");
  assert.equal(talks.get("bob").entries.length, 6);
});

test("a message is taken in once, whichever way it comes", () => {
  const talks = talksOf();
  assert.ok(talks.receive(message(7)));
  assert.equal(talks.receive(message(7)), null);
  const bob = talks.get("bob");
  const seven = page([message(5), message(6), message(7)]);
  assert.deepEqual(talks.takePage(bob, seven, talks.held(bob)), []);
  assert.deepEqual(bodies(talks, "bob"), ["no. 5", "no. 6", "no. 7"]);
  talks.takePage(bob, page([message(3)], { more: false, seen: 0 }));
  assert.deepEqual(bodies(talks, "bob"), ["no. 3", "no. 5", "no. 6", "no. 7"]);
  assert.deepEqual([bob.oldest, bob.more], [0, false]);
});

test("what has come by itself leaves no gap below it", () => {
  const talks = talksOf();
  talks.from = 6;
  for (const seq of [6, 7, 8]) talks.receive(message(seq));
  const bob = talks.get("bob");
  talks.takePage(bob, page([message(8)]), talks.held(bob));
  assert.deepEqual([bob.oldest, bob.more], [6, true]);
  talks.takePage(bob, page([message(4), message(5)]));
  assert.deepEqual([bob.oldest, bob.entries.length], [4, 5]);
  talks.takePage(bob, page([message(8)]), talks.held(bob)); // asked for again
  assert.deepEqual([bob.oldest, bob.entries.length], [4, 5]);
});

test("a copy of another device stands in its conversation, and is not unread", () => {
  const talks = talksOf();
  assert.equal(talks.receive(copy(1, 1, "cleo")).mine, true);
  assert.deepEqual(bodies(talks, "cleo"), ["own 1"]);
  assert.deepEqual([talks.get("bob"), talks.unread], [undefined, 0]);
  [2, 3].forEach((seq) => talks.receive(message(seq, "cleo")));
  talks.receive(copy(4, 4, "bob"));
  assert.equal(talks.unread, 2);
  talks.receive(copy(5, 5, "cleo")); // who answers has read
  assert.equal(talks.unread, 0);
});

test("what was sent from here is one with its copy, in whichever order they come", () => {
  for (const to of ["bob", "ann"]) {
    for (const copyFirst of [true, false]) {
      const kept = [];
      const under = new Set(["send 1"]);
      const talks = talksOf(0, {}, {
        isUnderWay: (id) => under.has(id), kept: (id) => kept.push(id),
      });
      talks.putSent(written(1, "sending", { to }));
      const { key } = talks.get(to).last;
      const came = () => talks.receive({ ...copy(9, 1), ...(to === "ann" ? { to: undefined } : { to }) });
      const answered = () => (under.clear(), talks.putSent(written(1, "sent", { to })));
      for (const step of copyFirst ? [came, answered] : [answered, came]) {
        step();
        assert.deepEqual(bodies(talks, to), ["own 1"]);
      }
      assert.deepEqual(kept, ["send 1"]);
      assert.deepEqual([talks.get(to).last.seq, talks.get(to).last.mine], [9, true]);
      assert.equal(talks.get(to).last.key === key, !copyFirst);
      assert.equal(talks.unread, 0);
    }
  }
});

test("the same words from another device are taken for those from here, until the reply", () => {
  const under = new Set(["send 1"]);
  const talks = talksOf(0, {}, { isUnderWay: (id) => under.has(id) });
  talks.putSent(written(1, "sending"));
  talks.receive({ ...copy(9, 7), body: "own 1" });
  assert.equal(talks.get("bob").entries.length, 1);
  under.clear();
  talks.putSent(written(1));
  assert.deepEqual(bodies(talks, "bob"), ["own 1", "own 1"]);
  // What is not on its way, but waits, is not taken for anything that comes.
  talks.putSent(written(2, "sending"));
  talks.receive({ ...copy(10, 8), body: "own 2" });
  assert.equal(talks.get("bob").entries.length, 4);
});

test("a receipt is of what was sent before it", () => {
  const talks = talksOf();
  talks.receive(copy(1, 10));
  talks.putSent(written(20));
  talks.putSent(written(30, "sending"));
  talks.receive(message(2));
  const bob = talks.get("bob");
  const states = () => bob.entries.map((entry) => bob.stateOf(entry));
  assert.deepEqual(states(), ["sent", "received", "sent", "sending"]);
  talks.acknowledged({ username: "bob", n: 10, seq: 3 });
  const delivered = () => bob.entries.filter((entry) => bob.stateOf(entry) === "delivered");
  assert.deepEqual(delivered().map(({ body }) => body), ["own 10"]);
  talks.acknowledged({ username: "bob", n: 5, seq: 4 }); // one of before never takes it back
  talks.takePage(bob, page([], { receipts: [{ seq: 5, username: "bob", n: 25, acked_at: 1 }] }));
  assert.deepEqual(delivered().map(({ body }) => body), ["own 10", "own 20"]);
});

test("what is unread is counted from the marks, and in all", () => {
  const talks = talksOf(2, { cleo: 5 });
  talks.count([1, 2, 3].map((seq) => message(seq)));
  [4, 5, 6].forEach((seq) => talks.receive(message(seq, "cleo")));
  assert.deepEqual([talks.get("bob").unread, talks.get("cleo").unread, talks.unread], [1, 1, 2]);
  talks.count([message(3)]);
  assert.equal(talks.unread, 2);
  talks.settle(); // the base goes up to the first that is unread
  assert.deepEqual(talks.marks, { base: 2, read: { cleo: 5 } });
  assert.equal(talks.markRead("bob", 3), true);
  assert.equal(talks.markRead("bob", 3), false);
  assert.equal(talks.unread, 1);
  assert.deepEqual(talks.marks.read, { cleo: 5, bob: 3 });
  talks.settle();
  assert.deepEqual(talks.marks, { base: 5, read: {} });
  talks.marks.base = 6; // as another tab says
  talks.recount();
  assert.equal(talks.unread, 0);
});

test("the line is before the first message that was not seen", () => {
  const talks = talksOf();
  talks.receive(message(1), { isSeen: () => true });
  const bob = talks.get("bob");
  assert.equal(bob.line, null);
  talks.markRead("bob", 1);
  [2, 3].forEach((seq) => talks.receive(message(seq)));
  assert.equal(bob.line, 2);
  talks.markRead("bob", 3);
  assert.equal(bob.line, 2); // it stays where it is
  talks.receive(message(4));
  assert.equal(bob.line, 4);
});

test("the talk with the newest message comes first, and an empty one is not listed", () => {
  const talks = talksOf();
  talks.open("dora");
  talks.receive(message(1, "cleo"));
  talks.receive(message(2));
  talks.takeList([{ username: "emil", last: message(3, "emil"), unread: 0 }]);
  assert.deepEqual(talks.list().map(({ name }) => name), ["emil", "bob", "cleo"]);
  assert.equal(talks.get("bob").lastSeq, 2);
  assert.equal(talks.get("emil").last.body, "no. 3");
});

const listed = (last, account, username = last.to ?? last.sender) =>
  ({ username, last, unread: 0, account });
const seqs = (talk) => talk.entries.map(({ seq }) => seq);

test("a name that another account has now is another conversation", () => {
  const talks = talksOf();
  talks.takeList([
    listed(message(9), "b3"), listed(message(8, "cleo"), "c1"), listed(message(7), "b2"),
    listed(message(4), "b1"), listed(message(2)),
  ]);
  const all = talks.list();
  assert.deepEqual(all.map(({ key }) => key), ["bob", "cleo", "bob b2", "bob b1"]);
  assert.deepEqual(all.map(({ name }) => name), ["bob", "cleo", "bob", "bob"]);
  assert.deepEqual(all.map(({ isEarlier }) => isEarlier), [false, false, true, true]);
  assert.equal(talks.open("bob b1"), all[3]);
  assert.equal(talks.open("<img src=x>").name, "<img src=x>");
  assert.equal(talks.get("bob").last.seq, 9);
  const earlier = talks.get("bob b2");
  talks.takePage(earlier, page([message(6), message(7)]), talks.held(earlier));
  talks.takePage(earlier, page([message(5)], { more: false, seen: 0 }));
  assert.deepEqual([seqs(earlier), earlier.oldest, earlier.more], [[5, 6, 7], 0, false]);
  // What was not acknowledged comes by itself once more, of whichever it is.
  [1, 4, 8, 11].forEach((seq) => assert.ok(talks.receive(message(seq))));
  assert.deepEqual(["bob b1", "bob b2", "bob"].map((key) => seqs(talks.get(key))), [
    [1, 4], [5, 6, 7], [8, 11],
  ]);
});

test("what stood here of an account goes with it when another has its name", () => {
  const talks = talksOf();
  talks.takeList([listed(message(3), "b1")]);
  const bob = talks.get("bob");
  assert.equal(talks.hasName(bob, "b1"), null);
  [4, 5].forEach((seq) => talks.receive(message(seq)));
  assert.equal(talks.hasName(bob, "b1"), null); // all until here is of that account
  talks.putSent(written(50, "sending"));
  talks.receive(message(6)); // of the next one, which is not known yet
  const earlier = talks.hasName(bob, "b2");
  assert.deepEqual([seqs(earlier), seqs(bob)], [[4, 5], [6, undefined]]);
  assert.deepEqual([earlier.last.seq, bob.account, bob.oldest], [5, "b2", null]);
  assert.deepEqual([earlier.unread, bob.unread, earlier.line, bob.line], [2, 1, 4, 6]);
  assert.equal(talks.hasName(bob, "b2"), null);
  assert.equal(talks.hasName(bob, null), null); // it is gone, and nobody else is there
  assert.equal(talks.hasName(bob, "b1"), null); // said by a server that is a moment late
  assert.equal(bob.account, "b2");
  // The list can tell as well, of whichever way round.
  talks.receive(message(7, "cleo"));
  talks.takeList([listed(message(7, "cleo"), "c1")]);
  talks.receive(message(8, "cleo"));
  talks.takeList([listed(message(8, "cleo"), "c2"), listed(message(7, "cleo"), "c1")]);
  assert.deepEqual([seqs(talks.get("cleo")), seqs(talks.get("cleo c1"))], [[8], [7]]);
  talks.rewind();
  assert.deepEqual([talks.get("bob b1"), bob.account, bob.isEarlier], [undefined, null, false]);
});

test("a page of an earlier account takes what stood with a later one", () => {
  const talks = talksOf();
  talks.takeList([listed(message(3), "b1")]);
  [10, 11].forEach((seq) => talks.receive(message(seq)));
  const earlier = talks.hasName(talks.get("bob"), "b2");
  assert.deepEqual([seqs(earlier), seqs(talks.get("bob"))], [[], [10, 11]]);
  talks.takePage(earlier, page([message(3), message(10)]), talks.held(earlier));
  assert.deepEqual([seqs(earlier), seqs(talks.get("bob"))], [[3, 10], [11]]);
  // Of three, each has what came in its time.
  talks.earlier("bob", "b0", 3);
  assert.deepEqual([seqs(talks.get("bob b0")), seqs(earlier)], [[3], [10]]);
});

test("what is unread is counted and read in the conversation that it is of", () => {
  const marks = { base: 2, read: { bob: 4 } };
  const talks = new Talks("ann", marks);
  talks.top = 12;
  talks.takeList([listed(message(12), "b2"), listed(message(6), "b1")]);
  talks.count([3, 4, 5, 6, 9, 12].map((seq) => message(seq)));
  const bob = talks.get("bob");
  const earlier = talks.get("bob b1");
  assert.deepEqual([earlier.unread, bob.unread], [2, 2]); // up to 4 it was read
  talks.markRead("bob", 12);
  assert.deepEqual([earlier.unread, bob.unread, talks.unread], [2, 0, 2]);
  talks.settle();
  assert.equal(marks.base, 4);
  talks.markRead("bob b1", 6);
  assert.equal(talks.unread, 0);
  talks.settle();
  assert.deepEqual(marks, { base: 12, read: {} });
  // After a reload what was read of the later one says nothing of the other.
  const again = new Talks("ann", { base: 2, read: { bob: 12 } });
  again.takeList([listed(message(12), "b2"), listed(message(6), "b1")]);
  again.count([5, 6, 9].map((seq) => message(seq)));
  assert.deepEqual([again.get("bob b1").unread, again.get("bob").unread], [2, 0]);
});

test("a receipt is of the account that gave it", () => {
  const talks = talksOf();
  talks.takeList([listed(copy(9, 9), "b2"), listed(copy(3, 3), "b1")]);
  const earlier = talks.get("bob b1");
  talks.acknowledged({ username: "bob", n: 9, seq: 10 });
  talks.takePage(earlier, page([copy(2, 2), copy(3, 3)], {
    receipts: [{ seq: 4, username: "bob", n: 2, acked_at: 1 }],
  }), []);
  assert.deepEqual(earlier.entries.map((entry) => earlier.stateOf(entry)), ["delivered", "sent"]);
  assert.equal(talks.get("bob").delivered, 9);
});

test("of more than twenty thousand messages the oldest are asked for again", () => {
  const talks = talksOf();
  talks.shown = talks.open("bob");
  for (let seq = 1; seq <= 20_000; seq += 1) talks.receive(message(seq));
  talks.receive(message(20_001, "cleo"));
  const bob = talks.get("bob");
  const cleo = talks.get("cleo");
  assert.deepEqual([bob.entries.length, cleo.entries.length], [20_000, 0]);
  assert.deepEqual([cleo.last.seq, cleo.unread, cleo.oldest], [20_001, 1, null]);
  talks.receive(message(20_002));
  assert.deepEqual([bob.entries.length, bob.oldest, bob.more], [15_000, 5_002, true]);
  talks.takePage(bob, page([message(5_000), message(5_001)]));
  assert.deepEqual([bob.entries[0].seq, bob.oldest], [5_000, 5_000]);
  talks.takePage(cleo, page([message(20_001, "cleo")]), []);
  assert.deepEqual([bodies(talks, "cleo"), cleo.oldest], [["no. 20001"], 20_001]);
});

test("another mailbox replaces what was received, and nothing that was sent", () => {
  const talks = talksOf();
  talks.receive(message(1));
  talks.receive(copy(2, 9));
  talks.putSent(written(2));
  talks.rewind();
  assert.deepEqual(bodies(talks, "bob"), ["own 2"]);
  const { oldest, more, line } = talks.get("bob");
  assert.deepEqual([talks.unread, oldest, more, line], [0, null, true, null]);
  assert.ok(talks.receive(message(1)));
  assert.ok(talks.receive(copy(2, 9)));
});
