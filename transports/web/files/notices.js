/**
 * Tells on the desktop of messages that one does not look at, if one has turned that on.
 *
 * The browser is asked for its permission when it is turned on, and at no other time.
 */

import { plain } from "./text.js";

const SHOWN = 200; // characters of a message
const GATHER_MS = 300; // messages within that are told at once
const SINGLY = 3; // conversations that are told one by one

/** Notifications of the desktop. */
export class Notices {
  #waiting = new Map(); // by talk, its last message
  #timer = null;

  /**
   * @param memory has `notifies`
   * @param {(name: string) => void} onChoose told of the talk whose notification is clicked
   */
  constructor(memory, onChoose) {
    Object.assign(this, { memory, onChoose });
  }

  /** Whether messages are told of. */
  get isOn() {
    return this.memory.notifies && this.#can && Notification.permission === "granted";
  }

  get #can() {
    return typeof Notification !== "undefined" && isSecureContext;
  }

  /** Turn it on or off; return why it cannot be turned on, or the empty string. */
  async turn(on) {
    this.memory.notifies = false;
    if (on) {
      if (!this.#can) return "This browser gives notifications to pages of https: only.";
      const answer = await Notification.requestPermission();
      if (answer !== "granted") return "The browser does not allow this page to notify you.";
    }
    this.memory.notifies = on;
    this.memory.save();
    return "";
  }

  /** Tell of a message. */
  tell({ with: name, body }) {
    if (!this.isOn) return;
    this.#waiting.set(name, body);
    this.#timer ??= setTimeout(() => this.#show(), GATHER_MS);
  }

  #show() {
    this.#timer = null;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    if (waiting.length > SINGLY) {
      return this.#one(null, "twinline", `New messages in ${waiting.length} conversations`);
    }
    for (const [name, body] of waiting) this.#one(name, plain(name), plain(body.slice(0, SHOWN)));
  }

  #one(name, title, body) {
    try {
      // Of one conversation there is one at a time, from however many tabs.
      const notice = new Notification(title, { body, tag: `twinline ${name ?? ""}` });
      notice.onclick = () => {
        window.focus();
        if (name !== null) this.onChoose(name);
        notice.close();
      };
    } catch {
      this.memory.notifies = false; // a browser that shows none in this way
    }
  }
}
