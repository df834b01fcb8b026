// Tests of twinline.js: `node --test client_tests.mjs`, with TWINLINE_JS and VECTORS in the
// environment. The server is scripted, in the same process.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

const {
  Backoff, Client, ClientClosed, Connection, ConnectionLost, NotConnected, RemoteProtocolError,
  REQUESTS, RequestError, TimedOut, believed, decodeReply, encodeRequest, newSendId, shuffled,
} = await import(process.env.TWINLINE_JS);
const vectors = JSON.parse(await readFile(process.env.VECTORS, "utf8"));

const lineOf = ({ jsonl }) => Buffer.from(jsonl, "hex").toString("utf8").replace(/\n$/, "");

// -- a scripted server ----------------------------------------------------------------------------

const LIMITS = {
  body_bytes: 16384, frame_bytes: 65536, frame_bytes_before_login: 4096, reply_bytes: 1048576,
  page: 1000, wait_seconds: 60,
};

/** Answers as the script says; a request that it has no word for waits. */
class Server {
  requests = [];
  sockets = [];
  isUp = true;
  position = 0;

  constructor(script = {}) {
    this.script = script;
    const server = this;
    this.WebSocket = class extends EventTarget {
      constructor(url, protocol) {
        super();
        assert.equal(protocol, "twinline.jsonl");
        server.sockets.push(this);
        this.number = server.sockets.length;
        queueMicrotask(() => (server.isUp ? this.onopen() : this.onclose?.({ reason: "" })));
      }

      send(line) {
        const request = JSON.parse(line);
        server.requests.push({ ...request, socket: this.number });
        setImmediate(() => this.closed || server.answer(this, request));
      }

      reply(reply) {
        const line = typeof reply === "string" ? reply : JSON.stringify(reply);
        if (!this.closed) this.onmessage?.({ data: line });
      }

      close() {
        this.closed = true;
      }

      /** End it from the server's side. */
      cut() {
        this.closed = true;
        this.onclose?.({ reason: "" });
      }
    };
  }

  answer(socket, request) {
    const { op, id } = request;
    const own = this.script[op]?.(request, socket);
    if (own === undefined && this.script[op] !== undefined) return;
    const session = {
      username: request.username ?? "ann", session: "token", position: this.position, unread: 0,
    };
    const usual = {
      hello: { protocol: 1, server: "scripted", limits: LIMITS },
      login: session, resume: session, create_account: session, logout: {}, ping: {},
      send: { message_id: "0".repeat(24), sent_at: 1, n: 1 },
      ack: { position: request.up_to, unread: 0 },
      status: { username: "ann", position: this.position, unread: 0, receipts: true },
    }[op];
    const reply = own ?? usual;
    if (reply !== undefined) {
      const ok = reply.code === undefined;
      socket.reply(ok ? { id, ok, ...reply } : { id, ok, error: reply });
    }
  }

  asked(op) {
    return this.requests.filter((request) => request.op === op);
  }

  /** Bring mail to the first watch. */
  bring(...seqs) {
    const { id, socket } = this.asked("watch")[0];
    const seen = seqs.at(-1);
    const reply = { id, ok: true, messages: mail(...seqs), position: 0, seen, more: true };
    this.sockets[socket - 1].reply(reply);
  }

  /** The socket on which mail is watched, once it is. */
  async watcher(count = 1) {
    await until(() => this.asked("watch").length >= count);
    return this.sockets[this.asked("watch").at(-1).socket - 1];
  }
}

const refusal = (code, more = {}) => ({ code, message: code, retryable: false, ...more });
const mail = (...seqs) => seqs.map((seq) => ({
  seq, message_id: seq.toString(16).padStart(24, "0"),
  sender: "bob", body: `no. ${seq}`, sent_at: seq,
}));

async function until(condition) {
  const late = performance.now() + 30_000;
  while (!condition()) {
    assert.ok(performance.now() < late, `not in time: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const open = [];

function clientOf(server, options = {}) {
  const states = [];
  const client = new Client("ws://scripted/", {
    WebSocket: server.WebSocket, onState: (state) => states.push(state),
    backoffFirst: 0.02, backoffMax: 0.1, ...options,
  });
  open.push(client);
  return Object.assign(client, { states, kinds: () => states.map(({ kind }) => kind) });
}

test.afterEach(() => Promise.all(open.splice(0).map((client) => client.close())));

// -- the vectors ----------------------------------------------------------------------------------

for (const vector of vectors.requests) {
  test(`request: ${vector.name}`, () => {
    assert.equal(encodeRequest(vector.id, vector.op, vector.fields), lineOf(vector));
  });
}

/** Return a reply with what its messages leave out, because it is the default. */
function filled(reply) {
  const whole = (message) => ({ to: null, n: null, ...message });
  const { messages, conversations, ...rest } = reply;
  if (messages) rest.messages = messages.map(whole);
  if (conversations) {
    const last = (each) => ({ account: null, ...each, last: whole(each.last) });
    rest.conversations = conversations.map(last);
  }
  return rest;
}

for (const vector of vectors.replies) {
  test(`reply: ${vector.name}`, () => {
    const { id, reply, error } = decodeReply(lineOf(vector), vector.to);
    assert.equal(id, vector.id);
    if (vector.model !== "ErrorReply") {
      const defaults = {
        WatchReply: { more: false, receipts: [] },
        HistoryReply: { receipts: [], account: null },
        HelloReply: { node: null, incarnation: null },
        TraceReply: { sent_at: null, acked_at: null },
      }[vector.model];
      assert.deepEqual(filled({ ...defaults, ...reply }), vector.fields);
      return;
    }
    const { code, message, retryable, retry_after_ms: ms, count, endpoints } = vector.fields;
    assert.ok(error instanceof RequestError);
    assert.deepEqual([error.code, error.message, error.retryable], [code, message, retryable]);
    assert.deepEqual([error.retryAfter, error.count], [ms ?? 0, count]);
    assert.deepEqual(error.endpoints, endpoints ?? []);
  });
}

for (const { name, conversation } of vectors.streams) {
  test(`stream: ${name}`, async () => {
    const server = new Server();
    server.answer = () => {}; // the vector says what is answered
    const socket = new server.WebSocket("ws://scripted/", "twinline.jsonl");
    socket.onopen = () => {};
    const connection = new Connection(socket);
    connection.frameLimit = 65536;
    const ids = new Map(); // of the vector, to those that the connection gave
    const expected = [];
    const got = [];
    for (const said of conversation) {
      if (said.from === "client") {
        const ask = connection.ask(said.op, said.fields, {
          onReply: (reply) => got.push({ id: said.id, ...reply }),
        });
        ask.catch((error) => got.push({ id: said.id, code: error.code }));
        ids.set(said.id, server.requests.at(-1).id);
        const { id, ...rest } = JSON.parse(lineOf(said));
        const { id: own, socket: number, ...asked } = server.requests.at(-1);
        assert.deepEqual(asked, rest);
      } else {
        const { id, ok, ...rest } = JSON.parse(lineOf(said));
        expected.push(ok ? { id, ...rest } : { id, code: rest.error.code });
        socket.reply({ id: ids.get(id), ok, ...rest });
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.deepEqual(got, expected);
    assert.ok(connection.isOpen);
    connection.fail(new ClientClosed("the end of the vector"));
  });
}

test("what is no reply is noticed", () => {
  const lines = [
    "", "[]", "{}", "null", '{"id":1}', '{"id":1,"ok":1}', '{"id":-1,"ok":true}',
    '{"id":1.5,"ok":true}',
    '{"id":null,"ok":true}', '{"id":1,"ok":false}', '{"id":1,"ok":false,"error":{"code":"busy"}}',
    '{"id":1,"ok":true,"message_id":"0","sent_at":1}',
    `{"id":1,"ok":true,"message_id":"${"0".repeat(24)}","sent_at":"1","n":1}`,
    `{"id":1,"ok":true,"message_id":"${"0".repeat(24)}","sent_at":1}`,
  ];
  for (const line of lines) {
    assert.throws(() => decodeReply(line, "send"), RemoteProtocolError, line);
  }
});

test("a request that there is not, or that lacks a field, is refused here", () => {
  for (const [op, fields] of [["nonsense", {}], ["send", { to: "bob" }], ["ping", { to: "bob" }]]) {
    assert.throws(() => encodeRequest(1, op, fields), RequestError);
  }
  assert.match(newSendId(), /^[0-9a-f]{24}$/);
  assert.ok(Object.isFrozen(REQUESTS));
});

// -- the pace -------------------------------------------------------------------------------------

test("the waits are those of the Python client", () => {
  const backoff = new Backoff(1, 30, 0.5, () => 0);
  const waits = Array.from({ length: 7 }, () => backoff.next());
  assert.deepEqual(waits, [1, 2, 4, 8, 16, 30, 30]);
  backoff.reset();
  assert.equal(backoff.next(), 1);
  assert.equal(new Backoff(1, 30, 0.5, () => 1).next(), 0.5);
  assert.equal(new Backoff(1, 30, 0.5, () => 0).asked(4), 4);
  assert.equal(new Backoff(1, 30, 0.5, () => 1).asked(4), 4.5);
});

// -- several servers ------------------------------------------------------------------------------

/** Servers by their names, and a WebSocket that leads to them. */
function several(scripts) {
  const servers = {};
  const urls = [];
  for (const [name, script] of Object.entries(scripts)) {
    const { hello = () => undefined, ...rest } = script;
    const named = { protocol: 1, server: "scripted", limits: LIMITS, node: name };
    servers[name] = new Server({ hello: () => hello() ?? named, ...rest });
    urls.push(`ws://${name}/`);
  }
  const went = [];
  const leads = (url, protocol) => {
    const { hostname } = new URL(url);
    went.push({ name: hostname, at: performance.now() });
    return new servers[hostname].WebSocket(url, protocol);
  };
  const WebSocket = function (url, protocol) {
    return leads(url, protocol);
  };
  return { servers, urls, went, WebSocket, names: () => went.map(({ name }) => name) };
}

function clientOfSeveral({ urls, WebSocket }, options = {}) {
  const states = [];
  const client = new Client(urls, {
    WebSocket, onState: (state) => states.push(state),
    backoffFirst: 0.02, backoffMax: 0.1, shuffle: false, ...options,
  });
  open.push(client);
  return Object.assign(client, { states });
}

test("a client goes to the next server when one is gone, with what was on its way", async () => {
  const taken = [];
  const send = (name) => (request, socket) => {
    taken.push([name, request.send_id]);
    if (name === "a") return void ((site.servers.a.isUp = false), socket.cut());
    return { message_id: "0".repeat(24), sent_at: 1, n: 1 };
  };
  const site = several({ a: { send: send("a") }, b: { send: send("b") } });
  const seen = [];
  const client = clientOfSeveral(site, { onMessage: ({ seq }) => void seen.push(seq) });
  await client.login("ann", "secret secret");
  await site.servers.a.watcher();
  site.servers.a.bring(1, 2);
  await until(() => seen.length === 2);
  assert.deepEqual([client.url, client.node], ["ws://a/", "a"]);
  await client.send("bob", "once");
  assert.deepEqual([client.url, client.node], ["ws://b/", "b"]);
  assert.deepEqual(taken.map(([name]) => name), ["a", "b"]);
  assert.equal(taken[0][1], taken[1][1]);
  await site.servers.b.watcher();
  site.servers.b.bring(1, 2, 3); // it has not heard of the ack
  await until(() => seen.length === 3);
  assert.deepEqual(seen, [1, 2, 3]);
  const online = client.states.filter(({ kind }) => kind === "online");
  assert.deepEqual(online.map(({ url, node }) => [url, node]), [["ws://a/", "a"], ["ws://b/", "b"]]);
});

test("each server is tried once, and then there is a wait", async () => {
  const site = several({ a: {}, b: {}, c: {} });
  for (const server of Object.values(site.servers)) server.isUp = false;
  const client = clientOfSeveral(site, { backoffFirst: 0.2, backoffMax: 0.2 });
  await assert.rejects(client.login("ann", "secret secret"), NotConnected);
  assert.deepEqual(site.names(), ["a", "b", "c"]);
  site.went.length = 0;
  const resumed = client.resume("token");
  await until(() => site.went.length > 3);
  assert.deepEqual(site.names().slice(0, 4), ["a", "b", "c", "a"]);
  assert.ok(site.went[2].at - site.went[0].at < 100);
  assert.ok(site.went[3].at - site.went[2].at > 95);
  for (const server of Object.values(site.servers)) server.isUp = true;
  await resumed;
});

for (const first of ["mail", "commands"]) {
  test(`a server that sends its clients away is obeyed, when ${first} ends first`, async () => {
    const site = several({ a: {}, b: {}, c: {} });
    const client = clientOfSeveral(
      { ...site, urls: ["ws://a/", "ws://b/"] }, { onMessage: () => {} },
    );
    await client.login("ann", "secret secret");
    const watcher = await site.servers.a.watcher();
    const [{ id }] = site.servers.a.asked("watch");
    const began = performance.now();
    if (first === "commands") site.servers.a.sockets[0].cut();
    watcher.reply({
      id, ok: false, error: refusal("shutting_down", {
        retryable: true, retry_after_ms: 150, endpoints: ["tcp://c:1", "ws://c:80/?transport=jsonl"],
      }),
    });
    await until(() => client.state.kind === "reconnecting");
    client.retryNow(); // nor does that cut it short
    await until(() => client.state.kind === "online");
    assert.equal(client.url, "ws://c/");
    const next = site.went.find(({ name }) => name !== "a");
    assert.equal(next.name, "c");
    assert.ok(next.at - began >= 149, `${next.at - began} ms`);
  });
}

test("a server that cannot resume now is left for another, after the time it asks for", async () => {
  const busy = () => refusal("busy", { retryable: true, retry_after_ms: 120 });
  const site = several({ a: { resume: busy }, b: {} });
  const client = clientOfSeveral(site);
  const began = performance.now();
  await client.resume("token");
  assert.equal(client.node, "b");
  assert.ok(performance.now() - began >= 119);
});

test("what is less safe than now is passed over, and so is what the page may not reach", async () => {
  const taken = (from, ...named) => believed(named, from);
  const [plain, sealed] = ["ws://b.example/", "wss://b.example/chat"];
  assert.deepEqual(taken("wss://a.example/", plain, sealed, "wss://127.0.0.1/"), [sealed]);
  assert.deepEqual(taken("ws://a.example/", plain, sealed, "ws://localhost/"), [plain, sealed]);
  assert.deepEqual(taken("ws://[::1]:9/", plain, "ws://127.0.0.1:7/"), ["ws://127.0.0.1:7/"]);
  const none = ["", "no", "tcp://b:1", "https://b/", "ws://u:p@b/", "ws://b/?transport=binary"];
  assert.deepEqual(taken("ws://a.example/", ...none), []);
  const many = Array.from({ length: 9 }, (_, at) => `ws://b${at}/`);
  assert.equal(taken("ws://a.example/", ...many).length, 4);
  const away = () => refusal("shutting_down", { retryable: true, endpoints: ["ws://b/"] });
  const site = several({ a: { status: away }, b: {} });
  const client = clientOfSeveral({ ...site, urls: ["ws://a/"] }, { mayGoTo: () => false });
  await client.login("ann", "secret secret");
  site.servers.a.script.status = () => (delete site.servers.a.script.status, away());
  await client.status();
  assert.deepEqual(new Set(site.names()), new Set(["a"]));
});

test("clients spread over the servers", () => {
  const first = Array.from({ length: 300 }, () => shuffled(["a", "b", "c"])[0]);
  for (const name of ["a", "b", "c"]) {
    assert.ok(first.filter((each) => each === name).length > 50);
  }
});

// -- commands -------------------------------------------------------------------------------------

test("commands go out in order, with ids that count up, and each has its reply", async () => {
  const server = new Server();
  const client = clientOf(server);
  await client.login("ann", "secret secret");
  await Promise.all(["one", "two", "three"].map((body) => client.send("bob", body)));
  const sends = server.asked("send");
  assert.deepEqual(sends.map(({ body }) => body), ["one", "two", "three"]);
  assert.deepEqual(sends.map(({ id }) => id), [3, 4, 5]);
  assert.equal(new Set(sends.map((send) => send.send_id)).size, 3);
});

test("what was on its way is sent again in its place, under its send_id", async () => {
  let cut = true;
  const server = new Server({
    send: (request, socket) => {
      if (cut && request.body === "two") return void ((cut = false), socket.cut());
      return { message_id: "0".repeat(24), sent_at: 1, n: 1 };
    },
  });
  const client = clientOf(server);
  await client.login("ann", "secret secret");
  const done = [];
  const send = (body) => client.send("bob", body).then(() => done.push(body));
  await Promise.all(["one", "two", "three"].map(send));
  assert.deepEqual(done, ["one", "two", "three"]);
  const twos = server.asked("send").filter(({ body }) => body === "two");
  assert.equal(twos.length, 2);
  assert.equal(twos[0].send_id, twos[1].send_id);
  assert.equal(server.asked("resume").length, 1); // without mail there is one connection
  assert.deepEqual(client.kinds().slice(0, 3), ["connecting", "online", "reconnecting"]);
  assert.equal(client.state.kind, "online");
});

test("a connection that was of use is replaced at once, another one after a wait", async () => {
  const { now } = performance;
  let skew = 0;
  performance.now = () => now.call(performance) + skew;
  try {
    const server = new Server();
    const client = clientOf(server, { backoffFirst: 100, backoffMax: 0.02 });
    await client.login("ann", "secret secret");
    const firstRetry = async () => {
      client.states.length = 0;
      server.sockets.at(-1).cut();
      await until(() => client.kinds().includes("online"));
      return client.states[0].retryAt;
    };
    skew += 101_000;
    assert.equal(await firstRetry(), null);
    assert.ok((await firstRetry()) > 0);
  } finally {
    performance.now = now;
  }
});

test("what may not be repeated fails when its outcome is not known", async () => {
  const server = new Server({ change_password: (request, socket) => void socket.cut() });
  const client = clientOf(server);
  await client.login("ann", "secret secret");
  await assert.rejects(client.changePassword("secret secret", "another one"), ConnectionLost);
  await client.ping(); // and the next command finds another connection
  assert.equal(server.asked("change_password").length, 1);
});

test("a login that sets a password and loses its reply tries that password, once", async () => {
  let failures = 1;
  const server = new Server({
    login: (request, socket) => (failures-- > 0 ? void socket.cut() : null),
  });
  const client = clientOf(server);
  const newPassword = "another one";
  await client.login("ann", "one time secret", { newPassword });
  const asked = () => server.asked("login").map((each) => [each.password, each.new_password]);
  const lost = ["one time secret", newPassword];
  assert.deepEqual(asked(), [lost, [newPassword, undefined]]);
  await client.logout();
  failures = 3;
  await assert.rejects(client.login("ann", "one time secret", { newPassword }), ConnectionLost);
  await assert.rejects(client.login("ann", newPassword), ConnectionLost);
  assert.equal(server.asked("login").length, 5);
});

test("a command that takes too long says whether it was sent", async () => {
  const server = new Server({ status: () => undefined });
  const client = clientOf(server);
  await client.login("ann", "secret secret");
  await assert.rejects(client.request("status", {}, { seconds: 0.05 }), TimedOut);
  server.isUp = false;
  server.sockets.at(-1).cut();
  await assert.rejects(client.request("ping", {}, { seconds: 0.05 }), NotConnected);
});

test("a server that stops answering is taken for dead", async () => {
  let silent = true;
  const server = new Server({
    ping: () => (silent ? void (silent = false) : {}),
  });
  const client = clientOf(server, { replySeconds: 1 });
  await client.login("ann", "secret secret");
  await client.ping();
  assert.ok(server.asked("ping").length >= 2);
  assert.match(client.states[2].reason, /does not answer/);
});

test("a server that is stopping is come back to when it says", async () => {
  let stopping = true;
  const server = new Server({
    send: () => {
      if (!stopping) return { message_id: "0".repeat(24), sent_at: 1, n: 1 };
      stopping = false;
      return refusal("shutting_down", { retryable: true, retry_after_ms: 60 });
    },
  });
  const client = clientOf(server);
  await client.login("ann", "secret secret");
  const began = performance.now();
  await client.send("bob", "hello");
  assert.ok(performance.now() - began > 55);
});

test("what is refused is told, and nothing is repeated", async () => {
  const server = new Server({ send: () => refusal("mailbox_full", { retryable: true }) });
  const client = clientOf(server);
  await client.login("ann", "secret secret");
  await assert.rejects(client.send("bob", "hello"), { code: "mailbox_full", retryable: true });
  assert.equal(server.asked("send").length, 1);
});

test("what is longer than the server's limit is not sent", async () => {
  const client = clientOf(new Server());
  await client.login("ann", "secret secret");
  await assert.rejects(client.send("bob", "\u0001".repeat(16384)), { code: "frame_too_large" });
  await client.ping();
});

for (const [what, line] of [
  ["answers another request", '{"id":77,"ok":true}'],
  ["answers with nonsense", "nonsense"],
  ["answers with bytes", Buffer.from("{}")],
]) {
  test(`a server that ${what} is left`, async () => {
    let once = true;
    const server = new Server({
      ping: (request, socket) => {
        if (!once) return {};
        once = false;
        if (typeof line === "string") socket.reply(line);
        else socket.onmessage({ data: line });
      },
    });
    const client = clientOf(server);
    await client.login("ann", "secret secret");
    await client.ping();
    assert.equal(server.sockets.length, 2);
  });
}

// -- sessions -------------------------------------------------------------------------------------

test("a login that is refused, or finds nobody, leaves the client as it was", async () => {
  const server = new Server({ login: () => refusal("bad_credentials") });
  const client = clientOf(server);
  await assert.rejects(client.login("ann", "wrong"), { code: "bad_credentials" });
  assert.equal(client.state.kind, "logged out");
  server.isUp = false;
  await assert.rejects(client.login("ann", "wrong"), NotConnected);
  server.isUp = true;
  delete server.script.login;
  await client.login("ann", "secret secret");
  assert.equal(client.token, "token");
  await assert.rejects(client.login("bob", "secret"), { code: "already_logged_in" });
});

test("a session that is gone on with is tried for until there is an answer", async () => {
  const server = new Server();
  server.isUp = false;
  const client = clientOf(server, { onMessage: () => {} });
  const resumed = client.resume("token");
  await until(() => server.sockets.length > 2);
  const waiting = client.states.findLast(({ retryAt }) => retryAt !== null);
  assert.match(waiting.reason, /cannot be reached/);
  assert.ok(waiting.retryAt < performance.now() + 1000);
  server.isUp = true;
  assert.equal((await resumed).username, "ann");
  assert.equal(client.state.kind, "online");
});

test("the next attempt can be made at once", async () => {
  const server = new Server();
  server.isUp = false;
  const client = clientOf(server, { backoffFirst: 1000, backoffMax: 1000 });
  const resumed = client.resume("token");
  await until(() => client.state.retryAt !== null);
  server.isUp = true;
  client.retryNow();
  await resumed;
});

test("a session that the server does not know ends", async () => {
  const server = new Server({ resume: () => refusal("session_expired") });
  const client = clientOf(server);
  await assert.rejects(client.resume("token"), { code: "session_expired" });
  assert.deepEqual([client.state.kind, client.token], ["logged out", null]);
  await assert.rejects(client.ping(), { code: "not_logged_in" });
});

test("a client that is refused knows which start of the server accounts end with", async () => {
  const hello = { protocol: 1, server: "scripted", limits: LIMITS };
  for (const incarnation of ["first", null]) {
    const server = new Server({
      hello: () => (incarnation ? { ...hello, incarnation } : hello),
      login: () => refusal("bad_credentials"),
      resume: () => refusal("session_expired"),
    });
    const byPassword = clientOf(server);
    assert.equal(byPassword.incarnation, null);
    await assert.rejects(byPassword.login("ann", "secret"), { code: "bad_credentials" });
    assert.equal(byPassword.incarnation, incarnation);
    const bySession = clientOf(server);
    await assert.rejects(bySession.resume("token"), { code: "session_expired" });
    assert.equal(bySession.incarnation, incarnation);
  }
});

test("logging out succeeds although the watch hears of it first", async () => {
  const server = new Server({
    logout: () => {
      const { id, socket } = server.asked("watch").at(-1);
      server.sockets[socket - 1].reply({ id, ok: false, error: refusal("session_expired") });
      setTimeout(() => {
        const logout = server.asked("logout")[0];
        server.sockets[logout.socket - 1].reply({ id: logout.id, ok: true });
      }, 10);
    },
  });
  const client = clientOf(server, { onMessage: () => {} });
  await client.login("ann", "secret secret");
  await server.watcher();
  await client.logout();
  assert.deepEqual([client.state.kind, client.state.reason], ["logged out", null]);
});

test("closing tells those who wait, and acknowledges what is dealt with", async () => {
  const server = new Server({ status: () => undefined });
  const client = clientOf(server, { onMessage: () => {} });
  await client.login("ann", "secret secret");
  const watcher = await server.watcher();
  server.bring(1, 2);
  await new Promise((resolve) => setImmediate(resolve));
  const waiting = assert.rejects(client.status(), ClientClosed);
  await client.close();
  await waiting;
  assert.equal(client.state.kind, "closed");
  assert.deepEqual(server.asked("ack").map(({ up_to }) => up_to), [2]);
  await assert.rejects(client.ping(), ClientClosed);
});

// -- mail -----------------------------------------------------------------------------------------

test("mail comes in order, each message once, and is acked when it is dealt with", async () => {
  const server = new Server();
  const seen = [];
  const client = clientOf(server, { onMessage: ({ seq }) => void seen.push(seq) });
  server.position = 4;
  await client.login("ann", "secret secret");
  const watcher = await server.watcher();
  const [first] = server.asked("watch");
  assert.deepEqual([first.after, first.ack, first.window, first.renew], [4, 4, 256, undefined]);
  watcher.reply({ id: first.id, ok: true, messages: mail(4, 5, 6), position: 4, seen: 6, more: true });
  watcher.reply({ id: first.id, ok: true, messages: mail(6, 7), position: 4, seen: 7, more: true });
  await server.watcher(2); // soon, for nothing more comes
  const second = server.asked("watch")[1];
  assert.deepEqual([second.after, second.ack, second.renew], [7, 7, true]);
  assert.deepEqual(seen, [5, 6, 7]);
});

test("a stream is renewed when half of the window is used up", async () => {
  const server = new Server();
  const client = clientOf(server, { onMessage: () => {}, window: 8 });
  await client.login("ann", "secret secret");
  const watcher = await server.watcher();
  server.bring(1, 2, 3, 4, 5);
  await server.watcher(2);
  assert.equal(server.asked("watch")[1].after, 4);
});

test("mail that a handler fails on comes to it again, and is not acked before", async () => {
  const errors = console.error;
  console.error = () => {};
  try {
    const server = new Server();
    const seen = [];
    const client = clientOf(server, {
      onMessage: async ({ seq }) => {
        seen.push(seq);
        await null;
        if (seen.length < 3) throw new Error("not yet");
      },
    });
    await client.login("ann", "secret secret");
    const watcher = await server.watcher();
    server.bring(1, 2);
    await server.watcher(2);
    assert.deepEqual(seen, [1, 1, 1, 2]);
    assert.deepEqual(server.asked("watch").map(({ ack }) => ack), [0, 2]);
  } finally {
    console.error = errors;
  }
});

test("copies and receipts come in order with mail, and the next watch goes on behind all", async () => {
  const server = new Server();
  const seen = [];
  const client = clientOf(server, {
    kinds: ["mail", "sent", "receipt"],
    onMessage: ({ seq, to }) => void seen.push([seq, to ?? "mail"]),
    onReceipt: ({ seq, n }) => void seen.push([seq, n]),
  });
  await client.login("ann", "secret secret");
  const watcher = await server.watcher();
  const [first] = server.asked("watch");
  assert.deepEqual(first.kinds, ["mail", "sent", "receipt"]);
  const [two, four] = mail(2, 4);
  watcher.reply({
    id: first.id, ok: true, position: 0, seen: 5, more: true,
    messages: [two, { ...four, to: "bob", n: 9 }],
    receipts: [{ seq: 3, username: "bob", n: 8, acked_at: 1 }],
  });
  await server.watcher(2);
  assert.deepEqual(seen, [[2, "mail"], [3, 8], [4, "bob"]]);
  assert.deepEqual([server.asked("watch")[1].after, server.asked("watch")[1].ack], [5, 5]);
  await client.close();
  assert.throws(() => clientOf(server, { kinds: ["sent"] }), TypeError);
});

test("what is asked of conversations and blocks is what the protocol has", async () => {
  const page = { messages: [], more: false, seen: 0 };
  const server = new Server({
    history: () => page, conversations: () => ({ conversations: [], more: false }),
    block: () => ({}), unblock: () => ({}), set_receipts: () => ({}),
    list_blocked: () => ({ usernames: ["eve"] }),
  });
  const client = clientOf(server);
  await client.login("ann", "secret secret");
  await client.send("bob", "hello", { sendId: "1", copy: true });
  const whole = { ...page, receipts: [], account: null };
  assert.deepEqual(await client.history({ peer: "bob", kinds: ["sent"] }), whole);
  assert.deepEqual(await client.history({ peer: "bob", account: "a1" }), whole);
  assert.deepEqual(await client.conversations({ limit: 2 }), { conversations: [], more: false });
  await client.block("eve");
  await client.unblock("eve");
  assert.deepEqual(await client.blocked(), ["eve"]);
  await client.setReceipts(false);
  const asked = server.requests.slice(-8).map(({ id, socket, ...fields }) => fields);
  assert.deepEqual(asked, [
    { op: "send", to: "bob", body: "hello", send_id: "1", copy: true },
    { op: "history", with: "bob", kinds: ["sent"] },
    { op: "history", with: "bob", account: "a1" },
    { op: "conversations", limit: 2 },
    { op: "block", username: "eve" },
    { op: "unblock", username: "eve" },
    { op: "list_blocked" },
    { op: "set_receipts", receipts: false },
  ]);
});

test("after a reconnect mail goes on behind what was dealt with", async () => {
  const server = new Server();
  const seen = [];
  const client = clientOf(server, { onMessage: ({ seq }) => void seen.push(seq) });
  await client.login("ann", "secret secret");
  const watcher = await server.watcher();
  server.bring(1, 2);
  await new Promise((resolve) => setImmediate(resolve));
  watcher.cut();
  await server.watcher(2);
  const again = server.asked("watch").at(-1);
  assert.deepEqual([again.after, again.renew], [2, undefined]);
  assert.deepEqual(seen, [1, 2]);
});

test("a message that is being dealt with when the connection breaks is dealt with once", async () => {
  const server = new Server();
  const seen = [];
  let release;
  const held = new Promise((resolve) => (release = resolve));
  const client = clientOf(server, { onMessage: ({ seq }) => (seen.push(seq), held) });
  await client.login("ann", "secret secret");
  const watcher = await server.watcher();
  server.bring(1);
  watcher.cut();
  await until(() => client.kinds().filter((kind) => kind === "online").length === 2);
  assert.equal(server.asked("watch").length, 1);
  release();
  await server.watcher(2);
  assert.equal(server.asked("watch").at(-1).after, 1);
  assert.deepEqual(seen, [1]);
});

test("a mailbox that was put back is begun anew", async () => {
  const rewound = [];
  const server = new Server({
    watch: ({ after }) => (after > 3 ? refusal("cursor_invalid") : undefined),
  });
  server.position = 9;
  const onRewind = (position) => rewound.push(position);
  const client = clientOf(server, { onMessage: () => {}, onRewind });
  const login = client.login("ann", "secret secret");
  await login;
  server.position = 3;
  await until(() => rewound.length > 0);
  await until(() => server.asked("watch").at(-1).after === 3);
  assert.deepEqual(rewound, [3]);
});

test("an empty watch that ends too early is not asked again in a circle", async () => {
  const server = new Server({ watch: () => ({ messages: [], position: 0, seen: 0 }) });
  const client = clientOf(server, { onMessage: () => {} });
  await client.login("ann", "secret secret");
  await new Promise((resolve) => setTimeout(resolve, 150));
  assert.equal(server.asked("watch").length, 1);
});
