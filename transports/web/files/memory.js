/**
 * What a tab remembers when it is reloaded, in its `sessionStorage`, and what it tells the others.
 *
 * The server keeps what an account received, and nothing of what it sent. So a tab keeps what was
 * sent from it, and tells the other tabs of the same account over a BroadcastChannel; a new tab
 * asks them. All of it is gone with the last tab, and with logging out.
 */

const KEPT = 1000; // messages of one's own
const KEPT_CHARACTERS = 1_000_000; // of all of them; a browser gives a page some five million
const SAVE_MS = 200;

const empty = () => ({ token: null, username: null, base: null, read: {}, sent: [], drafts: {} });

/**
 * The memory of a tab. Its fields are read and written as they are, then `save` is called.
 *
 *   token     of the session
 *   username  whose everything else is
 *   base      the seq up to which all counts as read
 *   read      by username, the seq up to which it is read
 *   sent      what was sent from here: {sendId, to, body, at, state, messageId, error}
 *   drafts    by username, what is written and not sent
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

  /** Save soon; what is typed now is not worth a write each. */
  save() {
    this.#timer ??= setTimeout(() => this.saveNow(), SAVE_MS);
  }

  saveNow() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#drop(KEPT, KEPT_CHARACTERS);
    const { token, username, base, read, sent, drafts } = this;
    const kept = () => JSON.stringify({ token, username, base, read, sent: this.sent, drafts });
    try {
      this.storage.setItem(this.key, kept());
    } catch {
      this.#drop(sent.length / 2, KEPT_CHARACTERS / 4); // the browser gives less than most do
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
