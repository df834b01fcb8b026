/**
 * The conversations of one account: what was received and what was sent, by the other account.
 *
 * A name may be another account's now. So each conversation is of one account of a name, which the
 * server's list and its history tell; a message says the name alone. The conversation with the
 * account that has the name now has that for its key, and an earlier one the name and its id. All
 * that an earlier account wrote, or was written, comes before all of a later one.
 *
 * Of each there is what has come since the page was opened, and as much of what was before as was
 * asked for; below that, `oldest` tells where the history goes on. Nothing here knows of a page or
 * of a connection.
 */

const KEPT = 20_000; // messages that are held; older ones are asked for again
const DROPPED = 5_000; // of those of the open talk at once

/**
 * An entry of a talk:
 *
 *   key        what tells it from others
 *   mine       whether this account wrote it
 *   body, at   the text, and when the server took it, or when it was written here
 *   state      received, sending, sent or failed
 *   seq        in the mailbox: of all but what was sent from here and has no copy there yet
 *   id         the message's id, once the server has it
 *   n          of one that was sent: a receipt with this number or a higher one is of it too
 *   sent       of one that was sent from here and has no copy yet: what the memory keeps of it
 */

/** One conversation; its entries are in the order in which they are shown. */
export class Talk {
  entries = [];
  /** The newest message as the server's list has it: an entry that is in no order yet, or null. */
  preview = null;
  /** What was sent with this `n` or a lower one was acknowledged by the other. */
  delivered = 0;
  /** The seq of the first message that was not read when one turned here, or null. */
  line = null;
  /** The seq below which the history goes on; null: it was not asked for. */
  oldest = null;
  /** Whether there is more below. */
  more = true;
  /** Whether a page of the history is under way, and why the last one did not come. */
  loading = false;
  failed = null;
  /** Above which seq all that has come is here; null: as in all talks. */
  from = null;
  /** Up to which seq what is of the name is of this account, or of an earlier one. */
  until = 0;
  #unread = new Set(); // seqs

  /**
   * `account`: with whom, or null as long as that is not known; `isEarlier`: it had the name before
   * the one that has it now.
   */
  constructor(key, name, account = null, isEarlier = false) {
    Object.assign(this, { key, name, account, isEarlier });
  }

  /** The last entry, or undefined. */
  get last() {
    const last = this.entries.at(-1);
    const isNewer = last === undefined || this.preview?.seq > (last.seq ?? Infinity);
    return isNewer ? (this.preview ?? undefined) : last;
  }

  /** The greatest seq of an entry, or 0. */
  get lastSeq() {
    return this.entries.findLast((entry) => entry.seq !== undefined)?.seq ?? 0;
  }

  get unread() {
    return this.#unread.size;
  }

  /** The lowest seq that is not read, or Infinity. */
  get firstUnread() {
    let first = Infinity;
    for (const seq of this.#unread) first = Math.min(first, seq);
    return first;
  }

  /** Note that a message is not read; the line is drawn before the first one, unless it is seen. */
  noteUnread(seq, { isSeen = false } = {}) {
    const isFirst = this.#unread.size === 0 || seq < this.line;
    if (isFirst && !isSeen) this.line = seq;
    this.#unread.add(seq);
  }

  /** Take what has come up to a seq for read. */
  readUpTo(read) {
    for (const seq of this.#unread) if (seq <= read) this.#unread.delete(seq);
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

  /** Take over what stands in another talk of the name, up to where this account had it. */
  takeOver(other) {
    const { until } = this;
    const ours = other.entries.filter(({ seq }) => seq <= until);
    other.entries = other.entries.filter(({ seq }) => !(seq <= until));
    ours.forEach((entry) => this.put(entry));
    for (const seq of [...other.#unread].filter((each) => each <= until)) {
      other.#unread.delete(seq);
      this.#unread.add(seq);
    }
    if (other.line !== null && other.line <= until) {
      this.line ??= other.line;
      other.line = other.unread > 0 ? other.firstUnread : null;
    }
    if (other.preview?.seq <= until) {
      this.preview ??= other.preview;
      other.preview = null;
    }
  }

  /** How an entry stands: its state, or that it was delivered. */
  stateOf(entry) {
    return entry.state === "sent" && entry.n <= this.delivered ? "delivered" : entry.state;
  }
}

// What is not stored yet comes last, and all else is in the mailbox's order; what has no copy there
// goes by the server's clock.
function compare(one, other) {
  const order = pending(one) - pending(other);
  if (order !== 0) return order;
  if (one.seq !== undefined && other.seq !== undefined) return one.seq - other.seq;
  return one.at - other.at;
}

// The key of a talk with an account that had a name before; no name has a space in it.
const earlierKey = (name, account) => `${name} ${account}`;

const pending = (entry) => (entry.state === "sending" || entry.state === "failed" ? 1 : 0);

/** All conversations of an account. */
export class Talks {
  #byKey = new Map();
  #bySeq = new Map(); // entries
  #byId = new Map(); // entries that this account wrote, by the message's id
  #sent = new Map(); // entries that were sent from here and have no copy yet, by send id
  #earlier = new Map(); // by name, the talks with those that had it before

  /** The talk that is shown, or null: it is not unloaded. */
  shown = null;
  /** From this seq on everything comes by itself. */
  from = 1;
  /** The greatest seq that has come by itself. */
  top = 0;

  /**
   * @param {string} me the account
   * @param {{base: number, read: object}} marks up to where each talk is read, as `Memory` has it
   * @param {object} on
   * @param {(sendId: string) => boolean} on.isUnderWay whether a send is waiting for its reply
   * @param {(sendId: string) => void} on.kept the server's copy of what was sent is here
   */
  constructor(me, marks, { isUnderWay = () => false, kept = () => {} } = {}) {
    Object.assign(this, { me, marks, isUnderWay, kept });
  }

  /** Return the talk of a key, or undefined; with somebody who has the name now, it is the name. */
  get(key) {
    return this.#byKey.get(key);
  }

  /** Return the talk of a key, which is there from now on. */
  open(key) {
    let talk = this.#byKey.get(key);
    if (talk !== undefined) return talk;
    // What else is behind the number sign of an address is a name, though nobody can have it.
    const [, name, account] = /^(\S+) (\w+)$/.exec(key) ?? [null, key];
    if (account !== undefined) return this.earlier(name, account, 0);
    this.#byKey.set(name, (talk = new Talk(name, name)));
    return talk;
  }

  /** Return the talk with the account that had a name when a message came, which has a seq. */
  of(name, seq) {
    const all = (this.#earlier.get(name) ?? []).filter(({ until }) => seq <= until);
    all.sort((one, other) => one.until - other.until);
    return all[0] ?? this.open(name);
  }

  /** All talks with something in them, the one with the newest message first. */
  list() {
    const talks = [...this.#byKey.values()].filter((talk) => talk.last !== undefined);
    return talks.sort((one, other) => other.last.at - one.last.at);
  }

  /** How many messages are unread in all. */
  get unread() {
    let sum = 0;
    for (const talk of this.#byKey.values()) sum += talk.unread;
    return sum;
  }

  /** Whether there are talks of which it is only known that something is unread. */
  get lacksLines() {
    return [...this.#byKey.values()].some((talk) => talk.unread > 0 && talk.last === undefined);
  }

  // -- what the server has ----------------------------------------------------------------------

  /**
   * Take in a message that has just come; return its entry, or null if it is here already.
   *
   * @param {object} message
   * @param {{isSeen?: (key: string) => boolean}} [options] whether the end of a talk is in sight
   */
  receive(message, { isSeen = () => false } = {}) {
    this.top = Math.max(this.top, message.seq);
    const talk = this.of(message.to ?? message.sender, message.seq);
    const entry = this.#take(talk, message, { isNews: true });
    if (entry === null) return null;
    this.#count(talk, entry, isSeen(talk.key));
    if (entry.mine) this.markRead(talk.key, entry.seq); // who answers has read
    this.#trim();
    return entry;
  }

  /** Take in a receipt. */
  acknowledged({ username, n, seq = 0 }) {
    this.top = Math.max(this.top, seq);
    const talk = this.open(username);
    talk.delivered = Math.max(talk.delivered, n);
  }

  /** Take in a page of the server's list; return the talk of each of its conversations. */
  takeList(conversations) {
    return conversations.map(({ username, account = null, last }) => {
      let talk = this.open(username);
      if (account !== null && account !== talk.account) {
        const isNews = last.seq > talk.until && !this.#byKey.has(earlierKey(username, account));
        if (talk.account === null) talk.account = account;
        else if (isNews) this.hasName(talk, account);
        else talk = this.earlier(username, account, last.seq);
      }
      if (account !== null) talk.until = Math.max(talk.until, last.seq);
      if (!(talk.last?.seq >= last.seq)) talk.preview = this.#entryOf(last);
      return talk;
    });
  }

  /**
   * Note which account has the name of a talk now, or null if none has. Return the talk with the
   * one that was taken for it so far, if that is another, or null.
   */
  hasName(talk, account) {
    const { account: before, until, name } = talk;
    // None has a name again that another one has had: a server that says so says what was before.
    const wasBefore = this.#byKey.has(earlierKey(name, account));
    if (account === null || wasBefore || talk.isEarlier) return null;
    let earlier = null;
    if (before !== null && before !== account) {
      earlier = this.earlier(name, before, until);
      Object.assign(talk, { oldest: null, more: true, failed: null });
    }
    talk.account = account;
    talk.until = Math.max(until, this.top);
    return earlier;
  }

  /**
   * Return the talk with an account that had a name before: up to a seq, what is of the name is of
   * that account, or of one before it.
   */
  earlier(name, account, until) {
    const key = earlierKey(name, account);
    let talk = this.#byKey.get(key);
    if (talk === undefined) {
      talk = new Talk(key, name, account, true);
      this.#byKey.set(key, talk);
      this.#earlier.set(name, [...(this.#earlier.get(name) ?? []), talk]);
    }
    const now = this.open(name);
    talk.until = Math.max(talk.until, until);
    talk.from ??= now.from;
    // A mark beyond that is of what a later account wrote.
    const { read } = this.marks;
    if (read[name] <= until && !(read[key] >= read[name])) read[key] = read[name];
    for (const other of [now, ...this.#earlier.get(name)]) {
      if (other !== talk && (other === now || other.until > talk.until)) talk.takeOver(other);
    }
    return talk;
  }

  /** Return the entries of a talk that lie in the mailbox; `takePage` is told of them. */
  held(talk) {
    return talk.entries.filter((entry) => entry.seq !== undefined);
  }

  /**
   * Take in a page of a talk's history.
   *
   * @param {Talk} talk
   * @param {{messages: object[], receipts?: object[], more: boolean, seen: number}} page
   * @param {object[] | null} held what was here when the newest page was asked for; null: it is
   *   the page below `oldest`
   * @returns {object[]} the entries that should be in the page and are not: they were deleted, or
   *   another account has the name now; they are here no more
   */
  takePage(talk, { messages, receipts = [], more, seen }, held = null) {
    if (talk.isEarlier && messages.length > 0) {
      this.earlier(talk.name, talk.account, messages.at(-1).seq); // some of it stood elsewhere
    }
    const found = new Set(messages.map(({ seq }) => seq));
    const isThere = ({ seq }) => seq < seen || found.has(seq);
    const lost = (held ?? []).filter((entry) => !isThere(entry));
    for (const entry of lost) {
      talk.remove(entry);
      this.#forget(entry);
    }
    const { preview } = talk;
    if (held !== null && preview !== null && !isThere(preview)) {
      if (held.every(({ seq }) => seq !== preview.seq)) lost.push(preview);
      lost.sort(compare);
    }
    if (held !== null) talk.preview = null;
    for (const message of messages) this.#take(talk, message);
    for (const { n } of receipts) talk.delivered = Math.max(talk.delivered, n);
    const isFirst = talk.oldest === null;
    if (isFirst || seen <= talk.oldest) Object.assign(talk, { oldest: seen, more });
    const from = talk.from ?? this.from;
    if (isFirst && from < seen) Object.assign(talk, { oldest: from, more: true });
    talk.failed = null;
    return lost;
  }

  #entryOf(message) {
    const mine = message.sender === this.me;
    return {
      key: `seq ${message.seq}`, mine, body: message.body, at: message.sent_at, seq: message.seq,
      state: mine ? "sent" : "received", with: message.to ?? message.sender,
      id: message.message_id, n: message.n ?? undefined,
    };
  }

  #take(talk, message, { isNews = false } = {}) {
    if (this.#bySeq.has(message.seq)) return null;
    let entry = this.#entryOf(message);
    const own = entry.mine ? this.#byId.get(entry.id) : undefined;
    if (own !== undefined) {
      // It was sent from here: it stays the entry that it is.
      talk.remove(own);
      const { sendId } = own.sent;
      entry = Object.assign(own, { ...entry, key: own.key, sent: undefined });
      this.#sent.delete(sendId);
      this.kept(sendId);
    } else if (entry.mine && isNews) {
      this.#guess(talk, entry);
    }
    this.#bySeq.set(entry.seq, entry);
    if (entry.mine) this.#byId.set(entry.id, entry);
    talk.put(entry);
    return own === undefined ? entry : null;
  }

  /**
   * A copy has come whose send is not known: it may be of a send from here whose reply is still to
   * come, or from another device. The reply tells; until then the two are shown as one.
   */
  #guess(talk, { body, id }) {
    const own = talk.entries.find((entry) => entry.sent !== undefined && entry.body === body &&
      entry.state === "sending" && this.isUnderWay(entry.sent.sendId));
    if (own === undefined) return;
    own.guess = id;
    talk.remove(own);
  }

  #forget(entry) {
    this.#bySeq.delete(entry.seq);
    if (entry.mine) this.#byId.delete(entry.id);
  }

  #trim() {
    if (this.#bySeq.size <= KEPT) return;
    for (const talk of this.#byKey.values()) {
      if (talk !== this.shown) this.#unload(talk);
    }
    if (this.#bySeq.size > KEPT) this.#unload(this.shown, KEPT - DROPPED);
  }

  /** Drop what can be asked for again, but for so many of the newest. */
  #unload(talk, keep = 0) {
    const held = this.held(talk);
    const dropped = new Set(held.slice(0, held.length - keep));
    if (dropped.size === 0) return;
    if (keep === 0) talk.preview = talk.last.seq === undefined ? held.at(-1) : talk.last;
    dropped.forEach((entry) => this.#forget(entry));
    talk.entries = talk.entries.filter((entry) => !dropped.has(entry));
    talk.from = keep === 0 ? this.top + 1 : held[dropped.size].seq;
    Object.assign(talk, { oldest: keep === 0 ? null : talk.from, more: true });
  }

  /** Forget what the server had: it has another mailbox now. */
  rewind() {
    this.#bySeq.clear();
    this.#byId.clear();
    this.#earlier.clear();
    for (const [key, talk] of this.#byKey) {
      if (talk.isEarlier) this.#byKey.delete(key);
      const entries = talk.entries.filter((entry) => entry.seq === undefined);
      const fresh = new Talk(key, talk.name);
      Object.assign(talk, { ...fresh, entries });
      talk.readUpTo(Infinity);
    }
    for (const entry of this.#sent.values()) if (entry.id) this.#byId.set(entry.id, entry);
    this.top = 0;
  }

  // -- what is read ---------------------------------------------------------------------------

  /** The seq up to which the messages of a talk are read. */
  readUpTo(key) {
    return Math.max(this.marks.base ?? 0, this.marks.read[key] ?? 0);
  }

  /** Count what is unread in a page of the mailbox that is older than what has come by itself. */
  count(messages) {
    for (const { sender, seq } of messages) {
      if (sender !== this.me) this.#count(this.of(sender, seq), { seq, mine: false });
    }
  }

  #count(talk, entry, isSeen = false) {
    const isUnread = !entry.mine && entry.seq > this.readUpTo(talk.key);
    if (isUnread) talk.noteUnread(entry.seq, { isSeen });
  }

  /** Take the messages of a talk, up to a seq, for read; return whether that is news. */
  markRead(key, seq) {
    if (seq <= this.readUpTo(key)) return false;
    this.marks.read[key] = seq;
    this.#byKey.get(key)?.readUpTo(seq);
    return true;
  }

  /** Drop from the counts what is read: the marks have changed. */
  recount() {
    this.#byKey.forEach((talk) => talk.readUpTo(this.readUpTo(talk.key)));
  }

  /** Move the base up to the first unread message: what is counted after a reload begins there. */
  settle() {
    let first = Infinity;
    for (const talk of this.#byKey.values()) first = Math.min(first, talk.firstUnread);
    const { marks } = this;
    marks.base = Math.max(marks.base ?? 0, Math.min(first - 1, this.top));
    for (const [key, seq] of Object.entries(marks.read)) {
      if (seq <= marks.base) delete marks.read[key];
    }
  }

  // -- what was sent --------------------------------------------------------------------------

  /** Show what the memory keeps of something that was sent, or what has become of it. */
  putSent(sent) {
    const talk = this.open(sent.to);
    const { sendId, messageId } = sent;
    const known = this.#sent.get(sendId);
    const entry = known ?? { key: `sent ${sendId}`, mine: true, with: sent.to };
    talk.remove(entry);
    const { body, at, state, n } = sent;
    Object.assign(entry, { body, at, state, n, sent, id: messageId ?? undefined });
    if (messageId !== null && (this.#byId.get(messageId) ?? entry) !== entry) {
      this.#sent.delete(sendId); // its copy has come before
      this.kept(sendId);
      return;
    }
    this.#sent.set(sendId, entry);
    if (messageId !== null) this.#byId.set(messageId, entry);
    if (entry.guess !== undefined && messageId === null && this.isUnderWay(sendId)) return;
    entry.guess = undefined;
    talk.put(entry);
  }

  removeSent(sendId) {
    const entry = this.#sent.get(sendId);
    if (entry === undefined) return;
    this.#sent.delete(sendId);
    this.#byKey.get(entry.with)?.remove(entry);
  }
}
