/**
 * Shows one talk, of which only a part has elements: what can be seen, and some beyond.
 *
 * The part moves as one scrolls. What is looked at stays where it is on the screen, whatever is
 * added above or below it; at the end of the talk the newest message stays in sight.
 */

import { byId, el, reconcile, setText } from "./dom.js";
import { clock, dayName, dayOf, visible } from "./text.js";

const SHOWN = 200; // messages that have elements at most
const STEP = 100; // by which the part moves
const NEAR = 400; // pixels from its end at which it does
const AT_END = 48; // pixels that still count as the end
const LONG = 1500; // characters, or
const LINES = 24; // lines, beyond which a message is folded
const RUN_MS = 300_000; // messages of one person within that stand together

/** The messages of the talk that is open. */
export class Messages {
  #talk = null;
  #top = null; // the entries at the ends of the part that has elements
  #bottom = null;
  #atEnd = true;
  #missed = 0; // messages that came while one looked further up
  #unfolded = new Set(); // keys
  #online = true;

  /**
   * @param {object} on
   * @param {() => void} on.older wants older messages of the server
   * @param {() => void} on.end the newest message has come into sight
   * @param {(entry: object) => void} on.retry
   * @param {(entry: object) => void} on.edit has the text back, to be changed or sent elsewhere
   * @param {(entry: object) => void} on.discard
   */
  constructor(on) {
    this.on = on;
    this.scroller = byId("scroller");
    this.list = byId("messages");
    this.older = byId("older");
    this.older.addEventListener("click", () => this.on.older());
    this.newest = byId("newest");
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.newest.addEventListener("click", () => {
      this.toEnd();
      this.scroller.focus();
    });
    // The view became smaller or larger: the keyboard of a phone, say.
    new ResizeObserver(() => this.#atEnd && this.#toBottom()).observe(this.scroller);
  }

  /** Whether the newest message is in sight. */
  get atEnd() {
    return this.#atEnd;
  }

  /** Show a talk, or none, at its end. */
  show(talk) {
    this.#talk = talk;
    this.#unfolded.clear();
    this.list.replaceChildren();
    if (talk === null) return;
    this.#missed = 0;
    this.toEnd();
  }

  /** Say of what is not stored yet whether it is being sent, or waits for the server. */
  setOnline(online) {
    this.#online = online;
    this.update();
  }

  /** Whether there is room for older messages beside those that are here. */
  get isShort() {
    return this.scroller.scrollHeight - this.scroller.clientHeight < NEAR;
  }

  /** Go to the newest message. */
  toEnd() {
    this.#atEnd = true;
    this.update();
    this.on.end();
  }

  /** Note that a message came; it is counted if it is not in sight. */
  came() {
    if (!this.#atEnd) this.#missed += 1;
  }

  /** Show what has become of the talk. */
  update() {
    const entries = this.#talk?.entries;
    if (entries === undefined) return;
    if (this.#atEnd) {
      this.#missed = 0;
      this.#draw(entries.length - SHOWN, entries.length);
      this.#toBottom();
    } else {
      this.#inPlace(() => this.#draw(...this.#part()));
    }
    this.#sayWhatIsAbove();
    this.#sayWhatIsBelow();
    this.#settle();
  }

  /** Say what is above the first message: older ones, perhaps, or nothing. */
  #sayWhatIsAbove() {
    const { loading, more, failed } = this.#talk;
    this.older.hidden = loading || !more;
    let text = more ? "" : "This is where it begins.";
    if (failed !== null) text = `Older messages cannot be read: ${failed}. `;
    setText(byId("edge-text"), loading ? "Looking for older messages …" : text);
  }

  #sayWhatIsBelow() {
    this.newest.hidden = this.#atEnd;
    const count = this.#missed;
    const news = `${count} new message${count === 1 ? "" : "s"}`;
    setText(this.newest, count > 0 ? news : "To the newest");
  }

  /** The indices of the part that has elements: the first, and the one behind the last. */
  #part() {
    const { entries } = this.#talk;
    const first = Math.max(0, entries.indexOf(this.#top));
    const bottom = entries.indexOf(this.#bottom);
    const last = bottom < 0 ? Math.min(first + SHOWN, entries.length) : bottom + 1;
    return [first, last];
  }

  #toBottom() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  #scrolled() {
    if (this.#talk === null) return;
    const [, last] = this.#part();
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const atEnd =
      scrollHeight - scrollTop - clientHeight < AT_END && last === this.#talk.entries.length;
    if (atEnd !== this.#atEnd) {
      this.#atEnd = atEnd;
      if (atEnd) {
        this.#missed = 0;
        this.on.end();
      }
      this.#sayWhatIsBelow();
    }
    const first = this.#settle();
    if (scrollTop < NEAR && first === 0) this.on.older();
  }

  /** Move the part if its end is near; return where it began before. */
  #settle() {
    const [first, last] = this.#part();
    const { length } = this.#talk.entries;
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    if (scrollTop < NEAR && first > 0) {
      const from = Math.max(0, first - STEP);
      this.#inPlace(() => this.#draw(from, Math.min(last, from + SHOWN)));
    } else if (scrollHeight - scrollTop - clientHeight < NEAR && last < length) {
      const to = Math.min(length, last + STEP);
      this.#inPlace(() => this.#draw(Math.max(first, to - SHOWN), to));
    }
    return first;
  }

  /** Change the elements, and leave that message where it is which is at the top of the view. */
  #inPlace(change) {
    const { top } = this.scroller.getBoundingClientRect();
    const anchor = Array.from(this.list.children).find(
      (child) => child.isMessage && child.getBoundingClientRect().bottom > top,
    );
    const before = anchor?.getBoundingClientRect().top;
    change();
    if (anchor?.isConnected) {
      this.scroller.scrollTop += anchor.getBoundingClientRect().top - before;
    }
  }

  // -- elements -------------------------------------------------------------------------------

  #draw(first, last) {
    const { entries } = this.#talk;
    const part = entries.slice(Math.max(0, first), last);
    this.#top = part.at(0) ?? null;
    this.#bottom = part.at(-1) ?? null;
    const items = [];
    const { line } = this.#talk;
    let before;
    let isAboveLine = line !== null && part.length > 0 && !(part[0].seq > line);
    for (const entry of part) {
      const newDay = before === undefined || dayOf(before.at) !== dayOf(entry.at);
      if (newDay) items.push(dayItem(entry));
      const atLine = isAboveLine && !entry.mine && entry.seq >= line;
      if (atLine) {
        items.push(lineItem());
        isAboveLine = false;
      }
      const together = !newDay && !atLine && before.mine === entry.mine;
      const inRun = together && entry.at - before.at < RUN_MS;
      items.push(this.#item(entry, inRun));
      before = entry;
    }
    reconcile(this.list, items);
  }

  #item(entry, inRun) {
    return {
      key: entry.key,
      make: () => this.#make(entry),
      update: (element) => {
        element.classList.toggle("run", inRun);
        const state = this.#stateOf(entry);
        if (element.state !== state) {
          element.state = state;
          this.#fillFoot(element.foot, entry, state);
        }
      },
    };
  }

  #stateOf(entry) {
    const state = this.#talk.stateOf(entry);
    return state === "sending" && !this.#online ? "waiting" : state;
  }

  #make(entry) {
    const body = el("p", { className: "body", dir: "auto" }, ...visible(entry.body));
    const who = el("span", { className: "for-readers" }, entry.mine ? "You: " : `${entry.with}: `);
    const foot = el("p", { className: "foot" });
    const bubble = el("div", { className: "bubble" }, who, body);
    if (isLong(entry.body) && !this.#unfolded.has(entry.key)) {
      bubble.append(this.#unfolder(entry, body));
    }
    bubble.append(foot);
    const element = el("li", { className: entry.mine ? "message mine" : "message" }, bubble);
    return Object.assign(element, { foot, isMessage: true });
  }

  #unfolder(entry, body) {
    body.classList.add("folded");
    const button = el("button", { type: "button", className: "link" }, "Show all of it");
    button.addEventListener("click", () => {
      this.#unfolded.add(entry.key);
      this.#inPlace(() => {
        body.classList.remove("folded");
        button.remove();
      });
      this.scroller.focus();
    });
    return button;
  }

  #fillFoot(foot, entry, state) {
    foot.replaceChildren(clock(entry.at));
    if (!entry.mine) return;
    const [sign, word, className] = STATES[state];
    const isSaid = entry.state !== "sent";
    foot.append(el("span", { className: `state ${className}`, title: word },
      el("span", { "aria-hidden": "true" }, sign),
      el("span", { className: isSaid ? "" : "for-readers" }, ` ${word}`)));
    if (state !== "failed") return;
    const button = (label, act) => {
      const made = el("button", { type: "button", className: "link" }, label);
      made.addEventListener("click", () => act(entry));
      return made;
    };
    foot.append(el("span", { className: "why" }, ...visible(entry.sent.error, { line: true })));
    if (!entry.sent.isFinal) foot.append(button("Try again", this.on.retry));
    foot.append(button("Edit", this.on.edit), button("Discard", this.on.discard));
  }
}

// By state: the sign, the word, and the classes.
const STATES = {
  waiting: ["○", "waits for the server", "sending"],
  sending: ["○", "sending", "sending"],
  sent: ["✓", "stored", "sent"],
  delivered: ["✓✓", "delivered", "sent delivered"],
  failed: ["!", "not sent:", "failed"],
};

function isLong(body) {
  return body.length > LONG || body.split("\n", LINES + 1).length > LINES;
}

function dayItem(entry) {
  return {
    key: `day ${dayOf(entry.at)} ${entry.key}`,
    make: () => el("li", { className: "day" }, el("span", {})),
    update: (element) => setText(element.firstElementChild, dayName(entry.at)),
  };
}

function lineItem() {
  return {
    key: "line",
    make: () => el("li", { className: "line" }, el("span", {}, "New messages")),
    update: () => {},
  };
}
