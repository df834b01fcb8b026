/** The settings: receipts, notifications, and whose mail is refused. */

import { byId, el, setText } from "./dom.js";
import { nameOf } from "./people.js";

/** The settings in their dialogue. */
export class Settings {
  #blocked = new Set();

  /**
   * @param client has a session
   * @param notices
   * @param {() => void} onBlocks told when it has changed who is blocked
   */
  constructor(client, notices, onBlocks) {
    Object.assign(this, { client, notices, onBlocks });
    this.dialog = byId("settings");
    this.receipts = byId("receipts");
    this.notifies = byId("notifies");
    byId("settings-open").addEventListener("click", () => this.#open());
    byId("settings-close").addEventListener("click", () => this.dialog.close());
    this.receipts.addEventListener("change", () => this.#setReceipts());
    this.notifies.addEventListener("change", () => this.#setNotifies());
    // A click beside it closes it: only there is the dialogue itself what is clicked.
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
  }

  /** Forget an account's. */
  clear() {
    this.dialog.close();
    this.#blocked.clear();
  }

  /** Ask the server who is blocked. */
  async load() {
    const names = await this.client.blocked();
    this.#blocked = new Set(names);
    this.#showBlocked();
    this.onBlocks();
  }

  isBlocked(name) {
    return this.#blocked.has(name);
  }

  /** Refuse somebody's mail from now on, or take it again. */
  async block(name, isBlocked) {
    if (isBlocked) await this.client.block(name);
    else await this.client.unblock(name);
    if (isBlocked) this.#blocked.add(name);
    else this.#blocked.delete(name);
    this.#showBlocked();
    this.onBlocks();
  }

  async #open() {
    this.#say("");
    this.receipts.disabled = true;
    this.notifies.checked = this.notices.isOn;
    this.#showBlocked();
    this.dialog.showModal();
    await this.#try(async () => {
      const { receipts } = await this.client.status();
      this.receipts.checked = receipts;
      this.receipts.disabled = false;
      await this.load();
    });
  }

  async #setReceipts() {
    const wanted = this.receipts.checked;
    const isDone = await this.#try(() => this.client.setReceipts(wanted));
    if (!isDone) this.receipts.checked = !wanted;
  }

  async #setNotifies() {
    this.#say(await this.notices.turn(this.notifies.checked));
    this.notifies.checked = this.notices.isOn;
  }

  async #try(act) {
    try {
      await act();
      this.#say("");
      return true;
    } catch (error) {
      this.#say(error.message);
      return false;
    }
  }

  #say(text) {
    setText(byId("settings-error"), text);
  }

  #showBlocked() {
    const names = [...this.#blocked].sort();
    byId("blocked-none").hidden = names.length > 0;
    byId("blocked").replaceChildren(...names.map((name) => {
      const button = el("button", { type: "button", className: "link" }, "Unblock",
        el("span", { className: "for-readers" }, " ", nameOf(name)));
      button.addEventListener("click", async () => {
        await this.#try(() => this.block(name, false));
        (byId("blocked").querySelector("button") ?? byId("settings-close")).focus();
      });
      return el("li", {}, nameOf(name), button);
    }));
  }
}
