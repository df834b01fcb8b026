/**
 * What a tab remembers when it is reloaded, in its `sessionStorage`, and what it tells the others.
 *
 * The server keeps what an account received, and copies of what it sent. A tab keeps what the server
 * has not stored yet, or keeps no copy of, and up to where one has read, which it tells the other
 * tabs of the same account over a BroadcastChannel; a new tab asks them. All of it is gone with the
 * last tab, and with logging out.
 */

const KEPT = 1000; // messages of one's own that have no copy
const KEPT_CHARACTERS = 1_000_000; // of all of them; a browser gives a page some five million
const SAVE_MS = 200;

const empty = () => ({
  token: null, username: null, base: null, isAssumed: false, read: {}, sent: [], drafts: {},
  notifies: false, incarnation: null, gone: null,
});

/**
 * The memory of a tab. Its fields are read and written as they are, then `save` is called.
 *
 *   token     of the session
 *   username  whose everything else is
 *   base      the seq up to which all counts as read
 *   isAssumed whether the base is what the server had as acknowledged, and nobody has read so far
 *   read      by talk, the seq up to which it is read
 *   sent      what was sent from here: {sendId, to, body, at, state, messageId, n, error, isFinal}
 *   drafts    by talk, what is written and not sent
 *   notifies  whether mail of other conversations is told on the desktop
 *   incarnation of the server that the session is open at, if its accounts end with it
 *   gone      the account that ended with its server
 */
export class Memory {
  #timer = null;

  constructor(storage = sessionStorage, key = "twinline") {
    this.storage = storage;
    this.key = key;
    Object.assign(this, empty());
    try {
      Object.assign(this, JSON.parse(storage.getItem(key)) ?? {});
    } catch {
      storage.removeItem(key);
    }
    addEventListener("pagehide", () => this.saveNow());
  }

  /** Forget everything, and begin again: for another account, or for nobody. */
  forget(username = null) {
    Object.assign(this, empty(), { username });
    this.saveNow();
  }

  /**
   * Go on with an account that was created again under its name: nothing of before is in its
   * mailbox, and who had a name before may be somebody else. What was not sent can be had back.
   */
  beginAnew() {
    Object.assign(this, { base: null, read: {} });
    const error = "this was written before the account was created anew";
    for (const sent of this.sent) {
      if (sent.state === "sending") Object.assign(sent, { state: "failed", error });
    }
  }

  /** Forget something that was sent: the server's copy of it is here, or it was given up. */
  dropSent(sendId) {
    this.sent = this.sent.filter((sent) => sent.sendId !== sendId);
    this.save();
  }

  /** Save soon; what is typed now is not worth a write each. */
  save() {
    this.#timer ??= setTimeout(() => this.saveNow(), SAVE_MS);
  }

  saveNow() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#drop(KEPT, KEPT_CHARACTERS);
    const names = Object.keys(empty());
    const kept = () => JSON.stringify(Object.fromEntries(names.map((name) => [name, this[name]])));
    try {
      this.storage.setItem(this.key, kept());
    } catch {
      this.#drop(this.sent.length / 2, KEPT_CHARACTERS / 4); // the browser gives less than most do
      try {
        this.storage.setItem(this.key, kept());
      } catch {
        // It gives nothing at all. The page works; a reload logs out.
      }
    }
  }

  /** Drop the oldest of what was sent, but nothing that is not stored yet. */
  #drop(count, characters) {
    let left = this.sent.length;
    let size = this.sent.reduce((sum, each) => sum + each.body.length, 0);
    if (left <= count && size <= characters) return;
    this.sent = this.sent.filter((each) => {
      if (each.state !== "sent" || (left <= count && size <= characters)) return true;
      left -= 1;
      size -= each.body.length;
      return false;
    });
  }
}

/** The tabs of one account in this browser. */
export class Tabs {
  #channel = null;

  /** @param {(news: object) => void} onNews told of what another tab tells */
  constructor(username, onNews) {
    if (typeof BroadcastChannel === "undefined") return;
    this.#channel = new BroadcastChannel(`twinline ${username}`);
    this.#channel.onmessage = (event) => onNews(event.data);
  }

  /** Tell the other tabs. */
  tell(news) {
    this.#channel?.postMessage(news);
  }

  close() {
    this.#channel?.close();
    this.#channel = null;
  }
}
