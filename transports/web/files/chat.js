/**
 * The chat page: joins the client to what is seen.
 *
 *   twinline    the protocol, the connections, the mail stream
 *   talks       the conversations; knows nothing of the page
 *   reader      asks the server for what it keeps of them
 *   outbox      sends what was written until the server has it
 *   memory      what outlives a reload, and what other tabs are told
 *   messages    the talk that is open
 *   people      the list of talks, and the search
 *   settings    receipts, and who is blocked
 *   notices     notifications of the desktop
 *   text, dom   safe text, and elements
 */

import { byId, el, setText } from "./dom.js";
import { Memory, Tabs } from "./memory.js";
import { Messages } from "./messages.js";
import { Notices } from "./notices.js";
import { Outbox } from "./outbox.js";
import { nameOf, paintFace, Search, TalkList } from "./people.js";
import { Reader } from "./reader.js";
import { Settings } from "./settings.js";
import { Talks } from "./talks.js";
import { plain, visible } from "./text.js";
import { Client, shuffled } from "./twinline.js";

const LOGOUT_SECONDS = 2; // that the server has for its answer
const SAID = 200; // characters of a message that are read out
const SAID_AT_ONCE = 3; // messages that are read out at once

const address = new URL(".", location.href);
address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
address.hash = address.search = "";

// Other servers with the same state, which the page's policy lets it connect to; see page.py.
const { content } = document.querySelector('meta[name="twinline-servers"]');
const others = content.split(" ").filter(Boolean).map((text) => new URL(text).href);

const memory = new Memory();
const client = new Client([address, ...shuffled(others)], {
  shuffle: false, // where the page came from is first
  mayGoTo: () => false, // nowhere but there
  name: "twinline page",
  kinds: ["mail", "sent", "receipt"],
  onMessage: receive,
  onReceipt: (receipt) => {
    talks?.acknowledged(receipt);
    draw();
  },
  onState: showState,
  onRewind: rewind,
});
const outbox = new Outbox(client, memory, sentChanged);
const messages = new Messages({
  older: () => open !== null && reader?.older(talks.get(open)),
  end: () => draw(),
  retry: (entry) => outbox.retry(entry.sent),
  edit: (entry) => {
    // It comes before what is written since.
    draft.value = [entry.body, draft.value].filter(Boolean).join("\n");
    giveUp(entry);
    draftChanged();
    draft.focus();
  },
  discard: giveUp,
});
const talkList = new TalkList({
  choose: (key) => choose(key),
  more: () => reader?.moreTalks(),
  drawn: () => draw(),
});
const notices = new Notices(memory, (name) => talks !== null && choose(name));
const settings = new Settings(client, notices, () => {
  drawNote();
  draw();
});
const search = new Search(
  (pattern, limit) => client.listAccounts({ pattern, limit }),
  (name) => choose(name, { isNow: true }),
);

let talks = null; // of who is logged in
let reader = null;
let tabs = null;
let open = null; // the key of the talk that is open
let creating = false; // what the form does

// -- logging in and out -------------------------------------------------------------------------

byId("login-other").addEventListener("click", () => setCreating(!creating));

function setCreating(value) {
  creating = value;
  setText(byId("login-title"), creating ? "Create an account" : "Log in");
  setText(byId("login-submit"), creating ? "Create account" : "Log in");
  setText(byId("login-other-text"), creating ? "You have an account?" : "No account yet?");
  setText(byId("login-other"), creating ? "Log in" : "Create one");
  setText(byId("login-error"), "");
  byId("password").autocomplete = creating ? "new-password" : "current-password";
  byId("password-rule").hidden = !creating;
  ask("new-password", false);
  ask("invitation", false);
  byId("invited").hidden = !creating;
}

/** Show or hide a field that only some logins have. */
function ask(name, wanted) {
  const field = byId(name);
  byId(`${name}-part`).hidden = !wanted;
  field.required = wanted;
  if (!wanted) field.value = "";
}

const isAsked = (name) => !byId(`${name}-part`).hidden;

/** Ask for what the server wants besides, and return the field to go on with, or null. */
function askMore(code) {
  const name = { password_change_required: "new-password", invitation_invalid: "invitation" }[code];
  if (name === undefined) return null;
  ask(name, true);
  byId("invited").hidden = true;
  return byId(name);
}

byId("invited-show").addEventListener("click", () => askMore("invitation_invalid").focus());

byId("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [username, password] = [byId("username"), byId("password")];
  const submit = byId("login-submit");
  submit.disabled = true;
  setText(byId("login-error"), "");
  try {
    const invitation = isAsked("invitation") ? byId("invitation").value.trim() : null;
    const newPassword = isAsked("new-password") ? byId("new-password").value : null;
    const enter = creating ? client.createAccount(username.value, password.value, { invitation })
      : client.login(username.value, password.value, { newPassword });
    const session = await enter;
    password.value = "";
    if (creating) memory.beginAnew();
    setCreating(false);
    begin(session);
  } catch (error) {
    const isGone = error.code === "bad_credentials" && memory.gone === username.value;
    setText(byId("login-error"), isGone ? GONE : sentence(error.message));
    const refused = error.code === "invalid_password" && isAsked("new-password");
    const field = (refused ? byId("new-password") : askMore(error.code)) ?? password;
    field.focus();
    field.select();
  } finally {
    submit.disabled = false;
  }
});

byId("logout").addEventListener("click", async () => {
  memory.forget();
  // Should the server not be there to be told, the token is gone from here all the same.
  await client.logout({ seconds: LOGOUT_SECONDS }).catch(() => {});
  history.replaceState(null, "", location.pathname + location.search);
  location.reload(); // nothing of the account is left in the page
});

const GONE = "This server keeps accounts in its memory alone, and was started anew: your account is " +
  "gone with all mail. Create it again.";

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** Show the account that has just been logged in to, or gone on with. */
function begin({ username, session, position }) {
  if (memory.username !== username) memory.forget(username);
  memory.token = session;
  memory.incarnation = client.incarnation;
  if (memory.base === null) Object.assign(memory, { base: position, isAssumed: true });
  memory.gone = null;
  memory.saveNow();
  talks = new Talks(username, memory, {
    isUnderWay: (sendId) => outbox.isUnderWay(sendId),
    kept: (sendId) => memory.dropSent(sendId),
  });
  reader = new Reader(client, talks, memory, changed);
  memory.sent.forEach((sent) => talks.putSent(sent));
  tabs?.close();
  tabs = new Tabs(username, heard);
  tabs.tell({ kind: "hello" });
  setText(byId("me"), username);
  setView("chat");
  outbox.resume();
  reader.begin(position);
  settings.load().catch(() => {}); // it is asked for again when the settings are opened
  openFromAddress();
  draw();
  // Not on a phone, where this brings the keyboard up.
  if (matchMedia("(pointer: fine)").matches) byId(open === null ? "search" : "draft").focus();
}

function leave(reason) {
  tabs?.close();
  reader?.end();
  settings.clear();
  talks = tabs = reader = null;
  show(null);
  search.clear();
  memory.token = null;
  memory.saveNow();
  setCreating(false);
  setText(byId("login-error"), reason);
  byId("username").value = memory.username ?? "";
  setView("login");
  drawTitle();
  byId(memory.username === null ? "username" : "password").focus();
}

function setView(view) {
  document.body.dataset.view = view;
  byId("login").hidden = view !== "login";
  byId("chat").hidden = view !== "chat";
}

// -- the connection -----------------------------------------------------------------------------

let counting;

function showState({ kind, reason, retryAt, node }) {
  clearInterval(counting);
  const away = kind === "reconnecting" || (kind === "connecting" && client.token !== null);
  byId("banner").hidden = !away || document.body.dataset.view !== "chat";
  const online = node === null ? "online" : `online at ${visible(node)}`;
  setText(byId("standing"), kind === "online" ? online : "offline");
  byId("standing").classList.toggle("online", kind === "online");
  setText(byId("banner-text"), away ? `Not connected${reason ? `: ${reason}` : ""}.` : "");
  byId("banner-now").hidden = retryAt === null;
  const count = () => {
    const seconds = Math.max(0, Math.ceil((retryAt - performance.now()) / 1000));
    const next = `Next attempt in ${seconds} s.`;
    setText(byId("banner-count"), retryAt === null ? "Connecting …" : next);
  };
  count();
  if (retryAt !== null) counting = setInterval(count, 250);
  messages.setOnline(kind === "online");
  draw();
  if (kind === "logged out" && talks !== null) {
    leave(reason === null ? "" : ended(sentence(reason)));
  } else if (kind === "online" && open !== null) {
    readNewest(open);
  }
}

/** Say why a session has ended that was known before. */
function ended(reason) {
  const { incarnation } = client;
  if (incarnation === null || incarnation === memory.incarnation) return reason;
  memory.gone = memory.username;
  return GONE;
}

byId("banner-now").addEventListener("click", () => client.retryNow());
addEventListener("online", () => client.retryNow());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    draw();
  } else {
    client.retryNow();
    draw();
  }
});

// -- mail ---------------------------------------------------------------------------------------

function receive(message) {
  if (talks === null) return;
  const isSeen = (key) => key === open && !document.hidden && messages.atEnd;
  const entry = talks.receive(message, { isSeen });
  if (entry !== null) {
    const here = talks.of(entry.with, entry.seq).key === open;
    if (here) messages.came();
    if (entry.mine) memory.save();
    if (!entry.mine) {
      const { with: who, body } = entry;
      announce(here ? `${who}: ${body.slice(0, SAID)}` : `New message from ${who}`);
      if (!here || document.hidden) notices.tell(entry);
    }
  }
  draw();
}

function rewind(position) {
  if (talks === null) return;
  Object.assign(memory, { base: position, read: {} });
  memory.save();
  talks.rewind();
  reader.end();
  reader = new Reader(client, talks, memory, changed);
  reader.begin(position);
  show(talks.get(open)?.key ?? null);
}

/** The server has answered, or is being asked. */
function changed() {
  if (talks !== null) draw();
}

/** Read the newest messages of a talk. */
async function readNewest(key, { isNow = false } = {}) {
  const talk = talks?.get(key);
  if (talk === undefined || reader === null) return;
  const earlier = await reader.newest(talk);
  if (earlier === null || open !== key) return;
  if (isNow) return readNewest(key, { isNow });
  // What one turned to was of another account: what is typed for that is not for this one.
  memory.drafts[earlier.key] = draft.value;
  delete memory.drafts[key];
  show(earlier.key);
  announce(byId("note").textContent);
}

// -- what is read -------------------------------------------------------------------------------

/** The newest message of the open talk is in sight: take all of it for read. */
function readOpen() {
  if (talks === null || open === null || document.hidden || !messages.atEnd) return;
  const seq = talks.get(open).lastSeq;
  if (talks.markRead(open, seq)) {
    reader.settle();
    memory.save();
    tabs.tell({ kind: "read", name: open, seq });
  }
}

// -- other tabs ---------------------------------------------------------------------------------

function heard(news) {
  if (talks === null) return;
  switch (news.kind) {
    case "hello":
      tabs.tell({ kind: "all", base: memory.base, read: memory.read });
      break;
    case "all":
      if (memory.isAssumed || news.base > memory.base) memory.base = news.base;
      memory.isAssumed = false;
      Object.entries(news.read).forEach(([name, seq]) => talks.markRead(name, seq));
      talks.recount();
      reader.count();
      break;
    case "read":
      talks.markRead(news.name, news.seq);
      break;
  }
  memory.save();
  draw();
}

// -- sending ------------------------------------------------------------------------------------

const draft = byId("draft");

function sentChanged(sent) {
  if (talks === null) return;
  talks.putSent(sent);
  if (sent.state === "failed") announce(`Not sent to ${sent.to}: ${sent.error}`);
  draw();
}

function giveUp({ sent }) {
  outbox.discard(sent);
  talks.removeSent(sent.sendId);
  draw();
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const body = draft.value.replace(/^\n+|\s+$/g, "");
  const talk = talks.get(open);
  if (body === "" || talk === undefined || talk.isEarlier || isTooLong(body)) return;
  draft.value = "";
  draftChanged();
  talk.line = null;
  outbox.add(talk.name, body.toWellFormed?.() ?? body);
  messages.toEnd();
  draft.focus();
});

draft.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("composer").requestSubmit();
  }
});
draft.addEventListener("input", draftChanged);

const sizeOf = (text) => new TextEncoder().encode(text).length;
const isTooLong = (body) => client.limits !== null && sizeOf(body) > client.limits.body_bytes;

function draftChanged() {
  if (open !== null) {
    if (draft.value === "") delete memory.drafts[open];
    else memory.drafts[open] = draft.value;
    memory.save();
  }
  draft.style.height = "auto";
  draft.style.height = `${draft.scrollHeight + 2}px`;
  const limit = client.limits?.body_bytes ?? Infinity;
  const size = draft.value.length * 3 < limit ? 0 : sizeOf(draft.value);
  setText(byId("draft-size"), size > 0.9 * limit ? `${size} of ${limit} bytes. ` : "");
  byId("draft-size").classList.toggle("error", size > limit);
}

// -- choosing a talk ----------------------------------------------------------------------------

function choose(key, { isNow = false } = {}) {
  const hash = `#${encodeURIComponent(key)}`;
  // So that "back" leads from a talk to the list where only one of them is seen.
  if (open === null) history.pushState(null, "", hash);
  else history.replaceState(null, "", hash);
  show(key, { isNow });
  (byId("composer").hidden ? byId("scroller") : draft).focus();
}

function openFromAddress() {
  let key = null;
  try {
    key = decodeURIComponent(location.hash.slice(1)) || null;
  } catch {
    // It is no address of ours.
  }
  show(key);
}

addEventListener("popstate", () => talks !== null && openFromAddress());

byId("back").addEventListener("click", () => {
  history.replaceState(null, "", location.pathname + location.search);
  const was = open;
  show(null);
  const rows = Array.from(byId("talks").children);
  (rows.find((row) => row.key === was)?.querySelector("button") ?? byId("search")).focus();
});

/**
 * Show a talk, or none. `isNow`: with whoever has the name now, whatever the list had under it.
 */
function show(key, { isNow = false } = {}) {
  open = key;
  document.body.dataset.pane = key === null ? "list" : "talk";
  byId("nothing-open").hidden = key !== null;
  byId("open").hidden = key === null;
  if (key === null) {
    if (talks !== null) talks.shown = null;
    messages.show(null);
  } else {
    const talk = talks.open(key);
    const { name } = talk;
    talks.shown = talk;
    if (talk.unread === 0) talk.line = null;
    const label = name === talks.me ? [nameOf(name), " (you)"] : [nameOf(name)];
    byId("with").replaceChildren(...label);
    paintFace(byId("with-face"), name);
    byId("draft-to").replaceChildren(nameOf(name));
    draft.placeholder = `Write to ${name === talks.me ? "yourself" : plain(name)}`;
    draft.value = memory.drafts[key] ?? "";
    byId("composer").hidden = talk.isEarlier;
    drawNote();
    draftChanged();
    messages.show(talk);
    readNewest(key, { isNow });
  }
  draw();
}

/** Say what there is to know of whom one writes to, and offer to block them. */
function drawNote() {
  const talk = open === null ? undefined : talks?.get(open);
  if (talk === undefined) return;
  const { name, isEarlier } = talk;
  const isBlocked = settings.isBlocked(name);
  const button = byId("block");
  button.hidden = isEarlier || name === talks.me;
  setText(button, isBlocked ? "Unblock" : "Block");
  const note = byId("note");
  note.hidden = !(isEarlier || isBlocked);
  let text = isBlocked ? "You have blocked this account: what it sends you is refused." : "";
  if (isEarlier) text = "The account that you wrote with here is gone. Another one may have its name: " +
    "it is found by the search, and is another conversation.";
  setText(note, text);
}

byId("block").addEventListener("click", async () => {
  const { name } = talks.get(open);
  try {
    await settings.block(name, !settings.isBlocked(name));
  } catch (error) {
    byId("note").hidden = false;
    setText(byId("note"), sentence(error.message));
  }
});

addEventListener("keydown", (event) => {
  if (document.body.dataset.view !== "chat" || byId("settings").open) return;
  if (event.key === "k" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    byId("search").focus();
    byId("search").select();
  } else if (event.altKey && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    const keys = talks.list().map((talk) => talk.key);
    const now = keys.indexOf(open);
    // From one with nothing in it, which is not in the list, either leads there.
    const at = now < 0 ? 0 : now + (event.key === "ArrowDown" ? 1 : -1);
    if (keys[at] !== undefined) choose(keys[at]);
  } else if (event.key === "Escape" && open !== null && event.target !== byId("search")) {
    byId("search").focus();
  }
});

// -- drawing ------------------------------------------------------------------------------------

let drawing = false;

/** Show what has changed, once for all changes of a moment. */
function draw() {
  // What nobody sees gets no frames; the title is seen all the same.
  if (document.hidden) return drawTitle();
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (talks !== null) {
      messages.update();
      readOpen();
      const { isListed, more } = reader;
      const isBlocked = (name) => settings.isBlocked(name);
      const isOnline = client.state.kind === "online";
      talkList.update(talks, { open, isListed, more, isBlocked, isOnline });
      const talk = talks.shown;
      if (talk?.more && !talk.failed && messages.isShort) reader.older(talk);
    }
    sayNews();
    drawTitle();
  });
}

function drawTitle() {
  const unread = talks?.unread ?? 0;
  const title = unread > 0 ? `(${unread}) twinline` : "twinline";
  if (document.title !== title) document.title = title;
}

let news = []; // what a screen reader is to say

/** Have a screen reader say something. */
function announce(text) {
  news.push(text);
}

function sayNews() {
  if (news.length === 0) return;
  const last = news.slice(-SAID_AT_ONCE);
  if (news.length > last.length) last.unshift(`${news.length} new messages, of which the last:`);
  news = [];
  byId("news").replaceChildren(
    ...last.map((text) => el("p", {}, ...visible(text, { line: true }))),
  );
}

// -- the beginning ------------------------------------------------------------------------------

if (memory.token === null) {
  leave("");
} else {
  // Show what is here while the server is asked.
  setView("chat");
  setText(byId("me"), memory.username ?? "");
  client.resume(memory.token).then(begin, (error) => {
    memory.token = null;
    leave(ended(sentence(error.message)));
  });
  byId("banner").hidden = true;
}
