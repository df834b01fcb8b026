/**
 * Sends what was written, in order for each recipient, until the server has it or refuses it.
 *
 * The server keeps a copy of each, for the account's other devices and for later. Each message has its send_id from the beginning, so one that was on its way when the connection
 * broke, or the page was reloaded, is simply sent again.
 */

import { newSendId, RequestError } from "./twinline.js";

const WAITS = new Set(["busy", "rate_limited", "shutting_down"]); // nothing is wrong with it
const FINAL = new Set(["refused"]); // it would be again
const LONGEST_WAIT_MS = 60_000;
// The server remembers a send_id for 24 hours; what was on its way for longer may be there twice.
const TOO_OLD_MS = 20 * 3600 * 1000;

/** The messages of one's own that are not stored yet. */
export class Outbox {
  #busy = new Set(); // the recipients to whom something is on its way
  #underWay = new Set(); // send ids whose reply is waited for

  /**
   * @param client has a session, or will have
   * @param memory keeps what is sent
   * @param {(sent: object) => void} onChange told of each step of each message
   */
  constructor(client, memory, onChange) {
    Object.assign(this, { client, memory, onChange });
  }

  /** Send something new. */
  add(to, body) {
    const sent = {
      sendId: newSendId(), to, body, at: Date.now(), state: "sending", messageId: null, n: null,
      error: null, isFinal: false,
    };
    this.memory.sent.push(sent);
    this.#changed(sent);
    this.#send(to);
  }

  /** Go on with all that is not stored: there is a session again. */
  resume() {
    for (const sent of this.memory.sent) {
      if (sent.state !== "sending") continue;
      if (Date.now() - sent.at > TOO_OLD_MS) {
        this.#changed(sent, {
          state: "failed", error: "it is not known whether this arrived", isFinal: false,
        });
      } else {
        this.#send(sent.to);
      }
    }
  }

  /** Send one that has failed again, behind what was written since, and still once at most. */
  retry(sent) {
    const last = this.memory.sent.filter((each) => each !== sent);
    this.memory.sent = [...last, sent];
    this.#changed(sent, { state: "sending", error: null, at: Date.now() });
    this.#send(sent.to);
  }

  /** Give up one that has failed. */
  discard(sent) {
    this.memory.dropSent(sent.sendId);
  }

  /** Whether a send waits for its reply now. */
  isUnderWay(sendId) {
    return this.#underWay.has(sendId);
  }

  async #send(to) {
    if (this.#busy.has(to)) return;
    this.#busy.add(to);
    try {
      let sent;
      while ((sent = this.#next(to)) !== undefined && (await this.#try(sent)));
    } finally {
      this.#busy.delete(to);
    }
  }

  #next(to) {
    return this.memory.sent.find((each) => each.to === to && each.state === "sending");
  }

  /** Send one; return whether to go on. */
  async #try(sent) {
    const { to, body, sendId } = sent;
    try {
      this.#underWay.add(sendId);
      const options = { sendId, copy: true, seconds: Infinity };
      const { message_id: messageId, sent_at: at, n } = await this.client.send(to, body, options);
      this.#underWay.delete(sendId);
      this.#changed(sent, { state: "sent", at, messageId, n });
    } catch (error) {
      this.#underWay.delete(sendId);
      if (this.client.token === null) return false; // the session has ended: `resume` goes on
      if (error instanceof RequestError && WAITS.has(error.code)) {
        this.#changed(sent);
        const ms = Math.min(Math.max(error.retryAfter, 1000), LONGEST_WAIT_MS);
        await new Promise((resolve) => setTimeout(resolve, ms));
        return this.client.token !== null;
      }
      const isFinal = FINAL.has(error.code);
      this.#changed(sent, { state: "failed", error: error.message, isFinal });
    }
    return true;
  }

  #changed(sent, change = {}) {
    Object.assign(sent, change);
    this.memory.save();
    this.onChange(sent);
  }
}
