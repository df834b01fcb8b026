// Tests of talks.js, the conversations behind the chat page: `node --test talks_tests.mjs`, with
// TALKS_JS in the environment.

import assert from "node:assert/strict";
import { test } from "node:test";

const { Talks } = await import(process.env.TALKS_JS);

const message = (seq, sender = "bob", at = seq) => ({
  seq, message_id: `received ${seq}`, sender, body: `no. ${seq}`, sent_at: at,
});
const written = (number, state = "sent", more = {}) => ({
  sendId: `send ${number}`, to: "bob", body: `own ${number}`, at: number, state,
  messageId: state === "sent" ? `sent ${number}` : null, error: null, ...more,
});
const bodies = (talks, name) => talks.get(name).entries.map(({ body }) => body);
const talksOf = (base = 0, read = {}) => new Talks("ann", { base, read });

test("both sides stand in the order of the server's clock, and what is not stored comes last", () => {
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
  assert.equal(talks.get("bob").entries.length, 5);
});

test("a message is taken in once, whichever way it comes", () => {
  const talks = talksOf();
  assert.ok(talks.receive(message(7)));
  assert.equal(talks.receive(message(7)), null);
  talks.receiveOlder([message(5), message(6), message(7)], true);
  assert.deepEqual(bodies(talks, "bob"), ["no. 5", "no. 6", "no. 7"]);
  assert.deepEqual([talks.oldest, talks.more], [5, true]);
  talks.receiveOlder([], true);
  assert.equal(talks.more, false);
});

test("a note to oneself is one message, in whichever order its two halves come", () => {
  for (const receivedFirst of [true, false]) {
    const talks = talksOf();
    const note = written(1, "sent", { to: "ann", messageId: "received 1" });
    const steps = [() => talks.receive(message(1, "ann")), () => talks.putSent(note)];
    if (!receivedFirst) steps.reverse();
    talks.putSent({ ...note, state: "sending", messageId: null });
    steps.forEach((step) => step());
    assert.deepEqual(bodies(talks, "ann"), ["no. 1"]);
    assert.equal(talks.get("ann").entries[0].mine, true);
    assert.equal(talks.unread, 0);
  }
});

test("what is unread is counted from the marks, and in all", () => {
  const talks = talksOf(2, { cleo: 5 });
  talks.receiveOlder([1, 2, 3].map((seq) => message(seq)), false);
  [4, 5, 6].forEach((seq) => talks.receive(message(seq, "cleo")));
  assert.deepEqual([talks.get("bob").unread, talks.get("cleo").unread, talks.unread], [1, 1, 2]);
  assert.equal(talks.markRead("bob", 3), true);
  assert.equal(talks.markRead("bob", 3), false);
  assert.equal(talks.unread, 1);
  assert.deepEqual(talks.marks.read, { cleo: 5, bob: 3 });
  talks.marks.base = 0; // as another tab says
  talks.marks.read = {};
  talks.recount();
  assert.equal(talks.unread, 6);
});

test("the talk with the newest message comes first, and an empty one is not listed", () => {
  const talks = talksOf();
  talks.open("dora");
  talks.receive(message(1, "cleo"));
  talks.receive(message(2));
  assert.deepEqual(talks.list().map(({ name }) => name), ["bob", "cleo"]);
  assert.equal(talks.get("bob").lastSeq, 2);
});

test("of more than twenty thousand messages the oldest are asked for again", () => {
  const talks = talksOf();
  for (let seq = 1; seq <= 20_001; seq += 1) talks.receive(message(seq, seq % 2 ? "bob" : "cleo"));
  const held = talks.get("bob").entries.length + talks.get("cleo").entries.length;
  assert.deepEqual([held, talks.oldest, talks.more], [15_001, 5_001, true]);
  talks.receiveOlder([message(4_999), message(5_000, "cleo")], true);
  assert.equal(talks.get("bob").entries[0].seq, 4_999);
});

test("another mailbox replaces what was received, and nothing that was sent", () => {
  const talks = talksOf();
  talks.receive(message(1));
  talks.putSent(written(2));
  talks.rewind();
  assert.deepEqual(bodies(talks, "bob"), ["own 2"]);
  assert.deepEqual([talks.unread, talks.oldest, talks.more], [0, null, true]);
  assert.ok(talks.receive(message(1)));
});
