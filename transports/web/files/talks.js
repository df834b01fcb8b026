/**
 * The conversations of one account: what was received and what was sent, by the other person.
 *
 * Nothing here knows of a page or of a connection.
 */

const KEPT = 20_000; // messages that are held; older ones are asked for again
const DROPPED = 5_000; // of them at once

/**
 * An entry of a talk:
 *
 *   key        what tells it from others
 *   mine       whether this account wrote it
 *   body, at   the text, and when the server took it, or when it was written here
 *   state      received, sending, sent or failed
 *   seq        of one that was received
 *   sent       of one that was sent: what the memory keeps of it
 */

/** One conversation; its entries are in the order in which they are shown. */
export class Talk {
  entries = [];
  unread = 0;

  constructor(name) {
    this.name = name;
  }

  /** The last entry, or undefined. */
  get last() {
    return this.entries.at(-1);
  }

  /** The greatest seq that was received, or 0. */
  get lastSeq() {
    return this.entries.findLast((entry) => entry.seq !== undefined)?.seq ?? 0;
  }

  /** Put an entry in its place. */
  put(entry) {
    let at = this.entries.length;
    while (at > 0 && compare(this.entries[at - 1], entry) > 0) at -= 1;
    this.entries.splice(at, 0, entry);
  }

  remove(entry) {
    const at = this.entries.indexOf(entry);
    if (at >= 0) this.entries.splice(at, 1);
  }
}

// What is not stored yet comes last. All else goes by the server's clock.
function compare(one, other) {
  return (
    pending(one) - pending(other) || one.at - other.at || (one.seq ?? 0) - (other.seq ?? 0)
  );
}

const pending = (entry) => (entry.state === "sending" || entry.state === "failed" ? 1 : 0);

/** All conversations of an account. */
export class Talks {
  #byName = new Map();
  #received = new Map(); // by seq
  #own = new Map(); // by message id: what this account wrote to itself, as it was received
  #sent = new Map(); // by send id: entries

  /** The lowest seq that is here, or null: history goes on below it. */
  oldest = null;
  /** Whether the server has older messages. */
  more = true;

  /**
   * @param {string} me the account
   * @param {{base: number, read: object}} marks up to where each talk is read, as `Memory` has it
   */
  constructor(me, marks) {
    this.me = me;
    this.marks = marks;
  }

  /** Return the talk with somebody, or undefined. */
  get(name) {
    return this.#byName.get(name);
  }

  /** Return the talk with somebody, which is there from now on. */
  open(name) {
    let talk = this.#byName.get(name);
    if (talk === undefined) this.#byName.set(name, (talk = new Talk(name)));
    return talk;
  }

  /** All talks with something in them, the one with the newest message first. */
  list() {
    const talks = [...this.#byName.values()].filter((talk) => talk.entries.length > 0);
    return talks.sort((one, other) => other.last.at - one.last.at);
  }

  /** How many messages are unread in all. */
  get unread() {
    let sum = 0;
    for (const talk of this.#byName.values()) sum += talk.unread;
    return sum;
  }

  // -- what was received --------------------------------------------------------------------

  /** Take in a message that has just come; return its entry, or null if it is here already. */
  receive(message) {
    const entry = this.#entryOf(message);
    if (entry === null) return null;
    this.oldest ??= message.seq;
    const talk = this.open(message.sender);
    talk.put(entry);
    this.#count(talk, entry);
    this.#trim();
    return entry;
  }

  /** Take in a page of the history: messages that are older than all that are here. */
  receiveOlder(messages, more) {
    const touched = new Set();
    for (const message of messages) {
      const entry = this.#entryOf(message);
      if (entry === null) continue;
      const talk = this.open(message.sender);
      talk.entries.push(entry);
      this.#count(talk, entry);
      touched.add(talk);
    }
    for (const talk of touched) talk.entries.sort(compare);
    if (messages.length > 0) {
      this.oldest = Math.min(messages[0].seq, this.oldest ?? Infinity);
    }
    this.more = more && messages.length > 0;
    return touched;
  }

  #entryOf(message) {
    if (this.#received.has(message.seq)) return null;
    const mine = message.sender === this.me;
    const entry = {
      key: `seq ${message.seq}`, mine, body: message.body, at: message.sent_at, seq: message.seq,
      state: mine ? "sent" : "received", with: message.sender,
    };
    this.#received.set(message.seq, entry);
    if (mine) {
      this.#own.set(message.message_id, entry);
      for (const own of this.#sent.values()) {
        if (own.sent.messageId === message.message_id) this.removeSent(own.sent.sendId);
      }
    }
    return entry;
  }

  #count(talk, entry) {
    if (!entry.mine && entry.seq > this.readUpTo(talk.name)) talk.unread += 1;
  }

  #trim() {
    if (this.#received.size <= KEPT) return;
    const seqs = [...this.#received.keys()].sort((one, other) => one - other);
    const lowest = seqs[DROPPED];
    for (const seq of seqs.slice(0, DROPPED)) this.#received.delete(seq);
    for (const talk of this.#byName.values()) {
      talk.entries = talk.entries.filter((entry) => !(entry.seq < lowest));
    }
    this.oldest = lowest;
    this.more = true;
  }

  /** Forget what was received: the server has another mailbox now. */
  rewind() {
    this.#received.clear();
    this.#own.clear();
    for (const talk of this.#byName.values()) {
      talk.entries = talk.entries.filter((entry) => entry.seq === undefined);
      talk.unread = 0;
    }
    this.oldest = null;
    this.more = true;
  }

  // -- what is read ---------------------------------------------------------------------------

  /** The seq up to which the messages of somebody are read. */
  readUpTo(name) {
    return Math.max(this.marks.base ?? 0, this.marks.read[name] ?? 0);
  }

  /** Take the messages of somebody, up to a seq, for read; return whether that is news. */
  markRead(name, seq) {
    if (seq <= this.readUpTo(name)) return false;
    this.marks.read[name] = seq;
    const talk = this.#byName.get(name);
    if (talk !== undefined) this.#recount(talk);
    return true;
  }

  /** Count what is unread again: the marks have changed. */
  recount() {
    this.#byName.forEach((talk) => this.#recount(talk));
  }

  #recount(talk) {
    const read = this.readUpTo(talk.name);
    talk.unread = talk.entries.filter((entry) => !entry.mine && entry.seq > read).length;
  }

  // -- what was sent --------------------------------------------------------------------------

  /** Show what the memory keeps of something that was sent, or what has become of it. */
  putSent(sent) {
    const talk = this.open(sent.to);
    let entry = this.#sent.get(sent.sendId);
    if (entry !== undefined) talk.remove(entry);
    if (sent.messageId !== null && this.#own.has(sent.messageId)) {
      this.#sent.delete(sent.sendId);
      return;
    }
    entry ??= { key: `sent ${sent.sendId}`, mine: true, with: sent.to };
    Object.assign(entry, { body: sent.body, at: sent.at, state: sent.state, sent });
    this.#sent.set(sent.sendId, entry);
    talk.put(entry);
  }

  removeSent(sendId) {
    const entry = this.#sent.get(sendId);
    if (entry === undefined) return;
    this.#sent.delete(sendId);
    this.#byName.get(entry.with)?.remove(entry);
  }
}
