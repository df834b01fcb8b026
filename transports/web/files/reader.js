/**
 * Reads what the server keeps: the list of conversations, the messages of one, what is unread.
 *
 * What it asks waits for the connection, for as long as the session lasts, and is asked again while
 * the server is busy. One reader belongs to one login; when it has ended, its answers go nowhere.
 */

import { RequestError } from "./twinline.js";

const TALKS = 50; // conversations that are asked for at once
const FIRST = 60; // messages of a conversation that are, when it is opened
const PAGE = 200; // as one scrolls back
const KINDS = ["mail", "sent", "receipt"];
const LONGEST_WAIT_MS = 60_000;

/** Fills the talks from the server. */
export class Reader {
  #ended = false;
  #before; // where the list goes on
  #listing = null; // the promise of a page of it
  #counted = false;

  /** Whether the server's list has come, and whether it has more. */
  isListed = false;
  more = false;

  /**
   * @param client has a session
   * @param talks
   * @param memory has the marks of what is read
   * @param {() => void} onChange told of each answer that has changed something
   */
  constructor(client, talks, memory, onChange) {
    Object.assign(this, { client, talks, memory, onChange });
  }

  /** Go nowhere any more. */
  end() {
    this.#ended = true;
  }

  /** Read who was talked to, count what is unread, and read on as far as something is. */
  async begin(position) {
    this.position = position;
    this.talks.from = position + 1;
    this.talks.top = Math.max(this.talks.top, position);
    await this.moreTalks();
    await this.count();
    while (!this.#ended && this.more && this.talks.lacksLines) await this.moreTalks();
  }

  /** Read the next page of the list. */
  moreTalks() {
    this.#listing ??= this.#list();
    return this.#listing;
  }

  async #list() {
    try {
      const reply = await this.#ask("conversations", { before: this.#before, limit: TALKS });
      if (reply === null) return;
      this.talks.takeList(reply.conversations);
      this.#before = reply.conversations.at(-1)?.last.seq;
      this.more = reply.more && reply.conversations.length > 0;
      this.isListed = true;
    } catch {
      this.more = false; // the list stays shorter
    } finally {
      this.#listing = null;
    }
    this.onChange();
  }

  /** Count what was acknowledged and is not read: what came later comes by itself. */
  async count() {
    this.#counted = false;
    let before = this.position + 1;
    try {
      while (before - 1 > (this.memory.base ?? 0)) {
        const reply = await this.#ask("history", { before, limit: this.client.limits.page });
        if (reply === null) return;
        this.talks.count(reply.messages);
        before = reply.seen;
        if (!reply.more) break;
      }
      this.#counted = true;
    } catch {
      // There are more unread ones than are counted, until the next login.
    }
    this.onChange();
  }

  /** All that is read is marked: let the next count be shorter. */
  settle() {
    if (this.#counted) this.talks.settle();
  }

  /**
   * Read the newest messages of a talk; return the talk of an earlier account of the name, if it
   * turns out that what stood here was of that, or null.
   */
  async newest(talk) {
    const { account } = talk;
    const held = this.talks.held(talk);
    const reply = await this.#page(talk, { limit: FIRST });
    if (reply === null) return null;
    let earlier = this.talks.hasName(talk, reply.account ?? null);
    // What was asked for by the id of that one is of it.
    const whose = earlier?.account === account ? earlier : talk;
    const here = new Set(whose.entries);
    const lost = this.talks.takePage(whose, reply, held.filter((entry) => here.has(entry)));
    if (lost.length > 0 && !whose.isEarlier) earlier = (await this.#earlier(talk, lost)) ?? earlier;
    this.onChange();
    return earlier;
  }

  /** Read what is older than all that is here of a talk. */
  async older(talk) {
    if (!talk.more || talk.oldest === null) return;
    const reply = await this.#page(talk, { before: talk.oldest, limit: PAGE });
    if (reply === null) return;
    this.talks.takePage(talk, reply);
    this.onChange();
  }

  async #page(talk, fields) {
    if (talk.loading) return null;
    const { name, account } = talk;
    talk.loading = true;
    this.onChange();
    try {
      return await this.#ask("history", { with: name, account, kinds: KINDS, ...fields });
    } catch (error) {
      talk.failed = error.message;
      if (!error.retryable && talk.oldest === null) Object.assign(talk, { oldest: 0, more: false });
      return null;
    } finally {
      talk.loading = false;
      if (!this.#ended) this.onChange();
    }
  }

  /**
   * What is not in a talk's history was deleted, or is still in the list: there it is of another
   * account, unless it has come after the page.
   */
  async #earlier(talk, lost) {
    const { seq } = lost.at(-1);
    let row;
    try {
      const list = await this.#ask("conversations", { before: seq + 1, limit: 1 });
      row = list?.conversations[0];
    } catch {
      return null;
    }
    if (row?.username !== talk.name || row.last.seq !== seq) return null;
    const [found] = this.talks.takeList([row]);
    return found.isEarlier ? found : null;
  }

  async #ask(op, fields) {
    for (;;) {
      try {
        const reply = await this.client.request(op, fields, { seconds: Infinity });
        return this.#ended ? null : reply;
      } catch (error) {
        if (this.#ended) return null;
        if (!(error instanceof RequestError && error.retryable)) throw error;
        const ms = Math.min(Math.max(error.retryAfter, 1000), LONGEST_WAIT_MS);
        await new Promise((resolve) => setTimeout(resolve, ms));
        if (this.#ended) return null;
      }
    }
  }
}
