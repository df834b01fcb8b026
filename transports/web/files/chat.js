/**
 * The chat page: joins the client to what is seen.
 *
 *   twinline    the protocol, the connections, the mail stream
 *   talks       the conversations; knows nothing of the page
 *   outbox      sends what was written until the server has it
 *   memory      what outlives a reload, and what other tabs are told
 *   messages    the talk that is open
 *   people      the list of talks, and the search
 *   text, dom   safe text, and elements
 */

import { byId, el, setText } from "./dom.js";
import { Memory, Tabs } from "./memory.js";
import { Messages } from "./messages.js";
import { Outbox } from "./outbox.js";
import { nameOf, paintFace, Search, TalkList } from "./people.js";
import { Talks } from "./talks.js";
import { visible } from "./text.js";
import { Client, shuffled } from "./twinline.js";

const PAGE = 100; // messages of the history that are asked for at once
const FIRST_PAGES = 5; // that are read so that the list of talks is not empty
const WANTED = 30; // older messages of a talk that are looked for at a time
const LOOKED_AT = 2000; // messages of the whole history that are looked at for them
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
  onMessage: receive,
  onState: showState,
  onRewind: rewind,
});
const outbox = new Outbox(client, memory, sentChanged);
const messages = new Messages({
  older: loadOlder,
  end: () => draw(),
  retry: (entry) => outbox.retry(entry.sent),
  discard: (entry) => {
    outbox.discard(entry.sent);
    talks.removeSent(entry.sent.sendId);
    draw();
  },
});
const talkList = new TalkList((name) => choose(name));
const search = new Search(
  (pattern, limit) => client.listAccounts({ pattern, limit }),
  (name) => choose(name),
);

let talks = null; // of who is logged in
let tabs = null;
let open = null; // the name of the talk that is open
let creating = false; // what the form does
let loading = false; // whether older messages are being asked for

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
    setCreating(false);
    begin(session);
  } catch (error) {
    setText(byId("login-error"), sentence(error.message));
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

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** Show the account that has just been logged in to, or gone on with. */
function begin({ username, session, position }) {
  if (memory.username !== username) memory.forget(username);
  memory.token = session;
  memory.base ??= position;
  memory.saveNow();
  talks = new Talks(username, memory);
  memory.sent.forEach((sent) => talks.putSent(sent));
  tabs?.close();
  tabs = new Tabs(username, heard);
  tabs.tell({ kind: "hello" });
  setText(byId("me"), username);
  setView("chat");
  outbox.resume();
  loadFirst(position);
  openFromAddress();
  draw();
  // Not on a phone, where this brings the keyboard up.
  if (matchMedia("(pointer: fine)").matches) byId(open === null ? "search" : "draft").focus();
}

function leave(reason) {
  tabs?.close();
  talks = tabs = null;
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
  setText(byId("standing"), kind === "online" ? online : "not connected");
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
  if (kind === "logged out" && talks !== null) {
    leave(reason === null ? "" : sentence(reason));
  }
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
  const entry = talks.receive(message);
  if (entry === null) return;
  const here = entry.with === open;
  if (here) messages.came();
  if (!entry.mine) {
    const { with: who, body } = entry;
    announce(here ? `${who}: ${body.slice(0, SAID)}` : `New message from ${who}`);
  }
  draw();
}

function rewind(position) {
  if (talks === null) return;
  memory.base = position;
  memory.read = {};
  memory.save();
  talks.marks = memory;
  talks.rewind();
  loadFirst(position);
}

/** Read so much of the history that the list shows who was written with lately. */
async function loadFirst(position) {
  const mine = talks;
  loading = true;
  try {
    let before = position + 1;
    // What is not read is counted, however much it is.
    for (let page = 0; page < FIRST_PAGES || before > memory.base; page += 1) {
      const limit = page < FIRST_PAGES ? PAGE : client.limits.page;
      const reply = await client.history({ before, limit });
      if (mine !== talks) return;
      talks.receiveOlder(reply.messages, reply.more);
      draw();
      if (!reply.more || reply.messages.length === 0) break;
      before = reply.messages[0].seq;
    }
  } catch {
    // The list stays shorter; scrolling asks again.
  } finally {
    loading = false;
    drawEdge();
    draw();
  }
}

/** Read the history further back, until the open talk has some more, or there is no more. */
async function loadOlder() {
  if (loading || talks === null || !talks.more || open === null) return;
  const mine = talks;
  loading = true;
  drawEdge();
  const talk = talks.open(open);
  const had = talk.entries.length;
  try {
    for (let looked = 0; looked < LOOKED_AT && talk.entries.length < had + WANTED; ) {
      const before = talks.oldest ?? undefined;
      const reply = await client.history({ before, limit: client.limits.page });
      if (mine !== talks) return;
      talks.receiveOlder(reply.messages, reply.more);
      looked += reply.messages.length;
      if (!talks.more) break;
    }
  } catch {
    // Scrolling asks again.
  } finally {
    loading = false;
    drawEdge();
    draw();
  }
}

function drawEdge() {
  if (talks === null) return;
  messages.setEdge({ loading, more: talks.more });
}

// -- what is read -------------------------------------------------------------------------------

/** The newest message of the open talk is in sight: take all of it for read. */
function readOpen() {
  if (talks === null || open === null || document.hidden || !messages.atEnd) return;
  const seq = talks.open(open).lastSeq;
  if (talks.markRead(open, seq)) {
    memory.save();
    tabs.tell({ kind: "read", name: open, seq });
  }
}

// -- other tabs ---------------------------------------------------------------------------------

function heard(news) {
  if (talks === null) return;
  switch (news.kind) {
    case "hello":
      tabs.tell({
        kind: "all",
        sent: memory.sent.filter((sent) => sent.state === "sent"),
        base: memory.base,
        read: memory.read,
      });
      break;
    case "all":
      news.sent.forEach(learn);
      memory.base = Math.min(memory.base, news.base);
      Object.entries(news.read).forEach(([name, seq]) => talks.markRead(name, seq));
      talks.recount();
      break;
    case "sent":
      learn(news.sent);
      break;
    case "read":
      talks.markRead(news.name, news.seq);
      break;
  }
  memory.save();
  draw();
}

/** Keep what was sent from another tab. */
function learn(sent) {
  const known = memory.sent.find((each) => each.sendId === sent.sendId);
  if (known === undefined) memory.sent.push(sent);
  else Object.assign(known, sent);
  talks.putSent(known ?? sent);
}

// -- sending ------------------------------------------------------------------------------------

const draft = byId("draft");

function sentChanged(sent) {
  if (talks === null) return;
  talks.putSent(sent);
  if (sent.state === "sent") tabs.tell({ kind: "sent", sent });
  if (sent.state === "failed") announce(`Not sent to ${sent.to}: ${sent.error}`);
  draw();
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const body = draft.value.replace(/^\n+|\s+$/g, "");
  if (body === "" || open === null || isTooLong(body)) return;
  draft.value = "";
  draftChanged();
  outbox.add(open, body.toWellFormed?.() ?? body);
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

function choose(name) {
  const hash = `#${encodeURIComponent(name)}`;
  // So that "back" leads from a talk to the list where only one of them is seen.
  if (open === null) history.pushState(null, "", hash);
  else history.replaceState(null, "", hash);
  show(name);
  draft.focus();
}

function openFromAddress() {
  let name = null;
  try {
    name = decodeURIComponent(location.hash.slice(1)) || null;
  } catch {
    // It is no address of ours.
  }
  show(name);
}

addEventListener("popstate", () => talks !== null && openFromAddress());

byId("back").addEventListener("click", () => {
  history.replaceState(null, "", location.pathname + location.search);
  const was = open;
  show(null);
  const rows = Array.from(byId("talks").children);
  (rows.find((row) => row.key === was)?.querySelector("button") ?? byId("search")).focus();
});

/** Show the talk with somebody, or none. */
function show(name) {
  open = name;
  document.body.dataset.pane = name === null ? "list" : "talk";
  byId("nothing-open").hidden = name !== null;
  byId("open").hidden = name === null;
  if (name === null) {
    messages.show(null);
  } else {
    const label = name === talks.me ? [nameOf(name), " (you)"] : [nameOf(name)];
    byId("with").replaceChildren(...label);
    paintFace(byId("with-face"), name);
    draft.value = memory.drafts[name] ?? "";
    draftChanged();
    drawEdge();
    messages.show(talks.open(name));
  }
  draw();
}

addEventListener("keydown", (event) => {
  if (document.body.dataset.view !== "chat") return;
  if (event.key === "k" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    byId("search").focus();
    byId("search").select();
  } else if (event.altKey && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    const names = talks.list().map((talk) => talk.name);
    const at = names.indexOf(open) + (event.key === "ArrowDown" ? 1 : -1);
    if (names[at] !== undefined) choose(names[at]);
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
      talkList.update(talks, open);
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
    leave(sentence(error.message));
  });
  byId("banner").hidden = true;
}
