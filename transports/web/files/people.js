/** The list of talks, and the search for people by typing. */

import { byId, el, reconcile, setText } from "./dom.js";
import { shortly, visible } from "./text.js";

const TYPING_MS = 150; // between the last key and the search
const FOUND = 20; // people that a search shows
const LISTED = 200; // talks that the list shows at first, and as many more at a time
const NEAR = 300; // pixels from the end of the list at which more are shown
const PREVIEW = 120; // characters
const HUES = 8;

/** Show somebody's initial in a colour of their own. */
export function paintFace(face, name) {
  let sum = 0;
  for (const character of name) sum = (31 * sum + character.codePointAt(0)) % 9973;
  face.className = `face hue-${sum % HUES}`;
  setText(face, (name[0] ?? "?").toUpperCase());
}

/** Return a name that cannot reorder or hide anything. */
export function nameOf(name) {
  return el("bdi", {}, ...visible(name, { line: true }));
}

/** The list of talks. */
export class TalkList {
  #limit = LISTED;

  /**
   * @param {object} on
   * @param {(key: string) => void} on.choose
   * @param {() => void} on.more wants more of the server's list
   * @param {() => void} on.drawn more of what is here is to be shown
   */
  constructor(on) {
    this.on = on;
    this.list = byId("talks");
    this.more = byId("talks-more");
    this.list.addEventListener("keydown", (event) => this.#arrows(event));
    this.more.addEventListener("click", () => this.#goOn());
    const scroller = byId("talks-nav");
    scroller.addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = scroller;
      if (!this.more.hidden && scrollHeight - scrollTop - clientHeight < NEAR) this.#goOn();
    }, { passive: true });
  }

  /**
   * Show the talks.
   *
   * @param talks
   * @param {object} how
   * @param {string | null} how.open the key of the talk that is open
   * @param {boolean} how.isListed whether the server's list has come
   * @param {boolean} how.more whether it has more
   * @param {(name: string) => boolean} how.isBlocked
   * @param {boolean} how.isOnline
   */
  update(talks, { open, isListed, more, isBlocked, isOnline }) {
    const all = talks.list();
    const shown = all.slice(0, this.#limit);
    this.isCut = shown.length < all.length;
    reconcile(this.list, shown.map((talk) => this.#item(talk, { open, isBlocked, isOnline })));
    byId("talks-none").hidden = all.length > 0 || !isListed;
    this.more.hidden = !this.isCut && !more;
  }

  #goOn() {
    this.#limit += LISTED;
    if (!this.isCut) this.on.more();
    else this.on.drawn();
  }

  #item(talk, { open, isBlocked, isOnline }) {
    return {
      key: talk.key,
      make: () => this.#make(talk),
      update: ({ parts }) => {
        const { last, unread, name, key } = talk;
        parts.button.classList.toggle("has-unread", unread > 0);
        if (key === open) parts.button.setAttribute("aria-current", "true");
        else parts.button.removeAttribute("aria-current");
        const tag = isBlocked(name) ? "blocked" : "";
        setText(parts.tag, talk.isEarlier ? "an earlier account" : tag);
        setText(parts.time, shortly(last.at));
        const count = unread > 999 ? "999+" : String(unread);
        setText(parts.count, unread > 0 ? count : "");
        setText(parts.countWord, unread > 0 ? " unread" : "");
        const sending = isOnline ? "Sending: " : "Waiting: ";
        const from = { sending, failed: "Not sent: " }[last.state];
        const said = (from ?? (last.mine ? "You: " : "")) + last.body.slice(0, PREVIEW);
        if (parts.preview.said !== said) {
          parts.preview.said = said;
          parts.preview.replaceChildren(...visible(said, { line: true }));
        }
      },
    };
  }

  #make({ name, key }) {
    const parts = {
      tag: el("span", { className: "row-tag" }),
      time: el("span", { className: "row-time" }),
      preview: el("bdi", { className: "preview" }),
      count: el("span"),
      countWord: el("span", { className: "for-readers" }),
    };
    const face = el("span", { "aria-hidden": "true" });
    paintFace(face, name);
    parts.button = el("button", { type: "button", className: "row" },
      face,
      el("span", { className: "row-name" }, nameOf(name), " ", parts.tag),
      parts.time,
      parts.preview,
      el("span", { className: "count" }, parts.count, parts.countWord));
    parts.button.addEventListener("click", () => this.on.choose(key));
    return Object.assign(el("li", {}, parts.button), { parts });
  }

  #arrows(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = document.activeElement?.closest("li");
    if (by === undefined || !row) return;
    event.preventDefault();
    const next = by > 0 ? row.nextElementSibling : row.previousElementSibling;
    if (next !== null) next.querySelector("button").focus();
    else if (by < 0) byId("search").focus();
  }
}

/** The search: a text field whose answers are chosen with the arrow keys, or clicked. */
export class Search {
  #timer;
  #asked = 0; // searches, so that a late answer of an earlier one is dropped
  #names = [];
  #at = -1; // the option that is chosen

  /**
   * @param {(pattern: string, limit: number) => Promise<{usernames: string[]}>} find
   * @param {(name: string) => void} onChoose
   */
  constructor(find, onChoose) {
    Object.assign(this, { find, onChoose });
    this.field = byId("search");
    this.list = byId("found");
    this.none = byId("found-none");
    this.field.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#search(), this.field.value.trim() ? TYPING_MS : 0);
    });
    this.field.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Empty the field, and show no answers. */
  clear() {
    this.field.value = "";
    this.#show([], "");
  }

  async #search() {
    const typed = this.field.value.trim().toLowerCase();
    const asked = ++this.#asked;
    if (typed === "") return this.#show([], "");
    try {
      const { usernames } = await this.find(`*${typed.replace(/[\\*?]/g, "\\$&")}*`, FOUND);
      if (asked !== this.#asked) return;
      // Who begins with it comes first.
      const begins = (name) => (name.startsWith(typed) ? 0 : 1);
      usernames.sort((one, other) => begins(one) - begins(other));
      this.#show(usernames, usernames.length === 0 ? "Nobody here has such a name." : "");
    } catch (error) {
      if (asked === this.#asked) this.#show([], error.message);
    }
  }

  #show(names, hint) {
    this.#asked += 1;
    this.#names = names;
    this.#at = names.length > 0 ? 0 : -1;
    this.list.hidden = names.length === 0;
    byId("talks-nav").hidden = names.length > 0;
    this.field.setAttribute("aria-expanded", String(names.length > 0));
    setText(this.none, hint);
    this.list.replaceChildren(...names.map((name, at) => this.#option(name, at)));
    this.#mark();
  }

  #option(name, at) {
    const face = el("span", { "aria-hidden": "true" });
    paintFace(face, name);
    const option = el("li", { className: "row", id: `found-${at}`, role: "option" },
      face, el("span", { className: "row-name" }, nameOf(name)));
    option.addEventListener("click", () => this.#choose(at));
    return option;
  }

  #mark() {
    Array.from(this.list.children, (option, at) =>
      option.setAttribute("aria-selected", String(at === this.#at)));
    if (this.#at < 0) return this.field.removeAttribute("aria-activedescendant");
    this.field.setAttribute("aria-activedescendant", `found-${this.#at}`);
    this.list.children[this.#at].scrollIntoView({ block: "nearest" });
  }

  #choose(at) {
    const name = this.#names[at];
    this.clear();
    this.onChoose(name);
  }

  #key(event) {
    const count = this.#names.length;
    if (event.key === "Escape") this.clear();
    else if (event.key === "Enter" && this.#at >= 0) this.#choose(this.#at);
    else if (event.key === "ArrowDown" && count > 0) this.#at = (this.#at + 1) % count;
    else if (event.key === "ArrowUp" && count > 0) this.#at = (this.#at - 1 + count) % count;
    else if (event.key === "ArrowDown") byId("talks").querySelector("button")?.focus();
    else return;
    event.preventDefault();
    if (this.#names.length > 0) this.#mark();
  }
}
