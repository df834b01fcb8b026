/**
 * A client of a twinline server: for a page, and for Node.
 *
 *   const client = new Client("wss://chat.example.org/", {
 *     onMessage: (message) => console.log(message.sender, message.body),
 *   });
 *   await client.login("ann", "correct horse");
 *   await client.send("bob", "hello");
 *
 * It speaks the JSON-lines messages of docs/protocol.md over WebSocket, one message a text frame.
 * It has two connections: one carries commands, in the order of the calls, the other one brings
 * mail. When either breaks, both are opened anew, at the pace of an exponential backoff; commands
 * wait meanwhile, and what was on its way and may be repeated is sent again. Every send has a
 * `send_id`, so that a repeat stores nothing twice. Mail is handed to `onMessage` in order, each
 * message once, and is acknowledged when that has returned: what was not comes again. With the
 * option `kinds` copies of what the account has sent, from any device, and receipts come as well.
 *
 * Several servers with one state are given as a list of URLs. The client stays at one while that
 * works; after a failure it goes to the next at once, and waits when each has failed. A server that
 * ends may name others, which are tried first.
 *
 * Errors:
 *
 *   TwinlineError
 *   ├── RequestError            the server refused; has `code`, `retryable`, `retryAfter`, `count`,
 *   │                           `endpoints`
 *   ├── RemoteProtocolError     what the server sent is no reply
 *   ├── NotConnected            there was no connection in time; nothing was sent
 *   ├── ConnectionLost          it broke before the reply; unknown whether the request was done
 *   ├── TimedOut                no reply in time; unknown whether the request was done
 *   └── ClientClosed            `close` was called
 */

/** The version of the protocol that this client speaks. */
export const PROTOCOL = 1;
/** What the client asks a WebSocket server to speak. */
export const SUBPROTOCOL = "twinline.jsonl";

/** The base of all errors of this module. */
export class TwinlineError extends Error {
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

/** What the server sent is no reply; the connection is of no more use. */
export class RemoteProtocolError extends TwinlineError {}
/** There was no connection in time; nothing was sent. */
export class NotConnected extends TwinlineError {}
/** The connection broke before the reply: the request may or may not have been done. */
export class ConnectionLost extends TwinlineError {}
/** No reply came in time: the request may or may not have been done. */
export class TimedOut extends TwinlineError {}
/** The client is closed, or was while this waited. */
export class ClientClosed extends TwinlineError {}

/** The server refused a request; nothing was done, unless `code` says that it is not known. */
export class RequestError extends TwinlineError {
  /**
   * @param {string} code one of the error codes, or one of a later version
   * @param {string} message a sentence for a person
   * @param {{retryable?: boolean, retryAfter?: number, count?: number | null,
   *   endpoints?: string[]}} more whether the same request may succeed later, in how many
   *   milliseconds, the count of `undelivered_messages`, and where `shutting_down` sends its clients
   */
  constructor(
    code, message, { retryable = false, retryAfter = 0, count = null, endpoints = [] } = {},
  ) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.retryAfter = retryAfter;
    this.count = count;
    this.endpoints = endpoints;
  }
}

// -- messages: requests to text, text to replies ----------------------------------------------

/** Stands in `REQUESTS` for the default of a field that has none. */
export const REQUIRED = Symbol("required");

/**
 * Every request: its fields with their defaults, in the protocol's order, and its reply.
 * `beforeLogin`: it needs no session. `repeatable`: a repeat does no harm; a `send` has a
 * `send_id` here, and so is.
 */
export const REQUESTS = Object.freeze({
  hello: {
    fields: { protocol: 1, client: null },
    reply: "HelloReply", beforeLogin: true, repeatable: true,
  },
  create_account: {
    fields: { username: REQUIRED, password: REQUIRED, invitation: null },
    reply: "SessionReply", beforeLogin: true, repeatable: false,
  },
  login: {
    fields: { username: REQUIRED, password: REQUIRED, new_password: null },
    reply: "SessionReply", beforeLogin: true, repeatable: false,
  },
  login_certificate: { fields: {}, reply: "SessionReply", beforeLogin: true, repeatable: false },
  resume: {
    fields: { session: REQUIRED },
    reply: "SessionReply", beforeLogin: true, repeatable: true,
  },
  logout: { fields: {}, reply: "Done", beforeLogin: false, repeatable: false },
  list_accounts: {
    fields: { pattern: "*", after: null, limit: 100 },
    reply: "AccountsReply", beforeLogin: false, repeatable: true,
  },
  send: {
    fields: { to: REQUIRED, body: REQUIRED, send_id: null, copy: false },
    reply: "SentReply", beforeLogin: false, repeatable: true,
  },
  watch: {
    fields: {
      after: REQUIRED, ack: null, limit: 64, wait: 0, window: 0, renew: false, kinds: ["mail"],
    },
    reply: "WatchReply", beforeLogin: false, repeatable: true,
  },
  ack: { fields: { up_to: REQUIRED }, reply: "AckReply", beforeLogin: false, repeatable: true },
  history: {
    fields: { before: null, limit: 50, with: null, kinds: null, account: null },
    reply: "HistoryReply", beforeLogin: false, repeatable: true,
  },
  conversations: {
    fields: { before: null, limit: 50 },
    reply: "ConversationsReply", beforeLogin: false, repeatable: true,
  },
  delete_messages: {
    fields: { seqs: REQUIRED },
    reply: "DeletedReply", beforeLogin: false, repeatable: true,
  },
  trace: {
    fields: { message_id: REQUIRED, to: REQUIRED },
    reply: "TraceReply", beforeLogin: false, repeatable: true,
  },
  block: { fields: { username: REQUIRED }, reply: "Done", beforeLogin: false, repeatable: true },
  unblock: { fields: { username: REQUIRED }, reply: "Done", beforeLogin: false, repeatable: true },
  list_blocked: { fields: {}, reply: "BlockedReply", beforeLogin: false, repeatable: true },
  set_receipts: {
    fields: { receipts: REQUIRED },
    reply: "Done", beforeLogin: false, repeatable: true,
  },
  status: { fields: {}, reply: "StatusReply", beforeLogin: false, repeatable: true },
  change_password: {
    fields: { password: REQUIRED, new_password: REQUIRED },
    reply: "Done", beforeLogin: false, repeatable: false,
  },
  delete_account: {
    fields: { password: REQUIRED, force: false },
    reply: "Done", beforeLogin: false, repeatable: false,
  },
  ping: { fields: {}, reply: "Done", beforeLogin: true, repeatable: true },
});

const integer = (value) => Number.isSafeInteger(value) && value >= 0;
const text = (value) => typeof value === "string";
const truth = (value) => typeof value === "boolean";
const messageId = (value) => text(value) && /^[0-9a-f]{24}$/.test(value);
const listOf = (kind) => (value) => Array.isArray(value) && value.every(kind);
const object = (fields) => (value) =>
  value !== null && typeof value === "object" && !Array.isArray(value) &&
  Object.entries(fields).every(([name, kind]) => kind(value[name]));
const orNull = (kind) => (value) => value === undefined || value === null || kind(value);
const orLeftOut = (kind) => (value) => value === undefined || kind(value);

const MESSAGE = object({
  seq: integer, message_id: messageId, sender: text, body: text, sent_at: integer,
  to: orNull(text), n: orNull(integer), // of a copy
});
const RECEIPT = object({ seq: integer, username: text, n: integer, acked_at: integer });
const RECEIPTS = orLeftOut(listOf(RECEIPT));
const CONVERSATION = object({
  username: text, last: MESSAGE, unread: integer, account: orNull(text),
});
const LIMITS = object({
  body_bytes: integer, frame_bytes: integer, frame_bytes_before_login: integer,
  reply_bytes: integer, page: integer, wait_seconds: integer,
});
const REPLIES = {
  Done: object({}),
  HelloReply: object({ protocol: integer, server: text, limits: LIMITS, node: orNull(text), incarnation: orNull(text) }),
  SessionReply: object({ username: text, session: text, position: integer, unread: integer }),
  AccountsReply: object({ usernames: listOf(text), more: truth }),
  SentReply: object({ message_id: messageId, sent_at: integer, n: integer }),
  WatchReply: object({
    messages: listOf(MESSAGE), position: integer, seen: integer, receipts: RECEIPTS,
    more: orLeftOut(truth),
  }),
  AckReply: object({ position: integer, unread: integer }),
  HistoryReply: object({
    messages: listOf(MESSAGE), more: truth, seen: integer, receipts: RECEIPTS,
    account: orNull(text),
  }),
  ConversationsReply: object({ conversations: listOf(CONVERSATION), more: truth }),
  BlockedReply: object({ usernames: listOf(text) }),
  DeletedReply: object({ deleted: integer }),
  TraceReply: object({ state: text, sent_at: orNull(integer), acked_at: orNull(integer) }),
  StatusReply: object({ username: text, position: integer, unread: integer, receipts: truth }),
};
const ERROR = object({
  code: text, message: text, retryable: truth,
  retry_after_ms: orNull(integer), count: orNull(integer), endpoints: orNull(listOf(text)),
});

const isSame = (value, other) =>
  value === other ||
  (Array.isArray(value) && Array.isArray(other) && value.length === other.length &&
    value.every((item, at) => item === other[at]));

/**
 * Return a request as the text of its frame; fields that equal their default are left out.
 *
 * @throws {RequestError} `bad_request`: there is no such request, or a field is missing or unknown
 */
export function encodeRequest(id, op, fields = {}) {
  const known = REQUESTS[op]?.fields;
  if (known === undefined) throw new RequestError("unknown_op", `there is no request ${op}`);
  const request = { op, id };
  for (const [name, otherwise] of Object.entries(known)) {
    const value = fields[name] === undefined ? otherwise : fields[name];
    if (value === REQUIRED) throw new RequestError("bad_request", `${op} needs ${name}`);
    if (!isSame(value, otherwise)) request[name] = value;
  }
  const unknown = Object.keys(fields).find((name) => !Object.hasOwn(known, name));
  if (unknown !== undefined) throw new RequestError("bad_request", `${op} has no ${unknown}`);
  return JSON.stringify(request);
}

/**
 * Return what the text of a frame says in reply to a request.
 *
 * @param {string} line the text
 * @param {string} op the request that it has to answer
 * @returns {{id: number | null, reply?: object, error?: RequestError}} the id is null for an error
 *   about a request whose id the server could not read
 * @throws {RemoteProtocolError} it is no reply to such a request
 */
export function decodeReply(line, op) {
  let read;
  try {
    read = JSON.parse(line);
  } catch {
    throw new RemoteProtocolError("the server sent what is not JSON");
  }
  if (!object({ ok: truth })(read) || !(read.id === null || integer(read.id))) {
    throw new RemoteProtocolError("the server sent what is not a reply");
  }
  const { id, ok, error, ...reply } = read;
  if (!ok) {
    if (!ERROR(error)) throw new RemoteProtocolError("the server sent an error without its fields");
    return {
      id,
      error: new RequestError(error.code, error.message, {
        retryable: error.retryable,
        retryAfter: error.retry_after_ms ?? 0,
        count: error.count ?? null,
        endpoints: error.endpoints ?? [],
      }),
    };
  }
  const { reply: kind } = REQUESTS[op];
  if (id === null || !REPLIES[kind](read)) {
    throw new RemoteProtocolError(`the server sent what does not answer ${op}`);
  }
  return { id, reply };
}

const encoder = new TextEncoder();
const bytesOf = (line) => encoder.encode(line).length;

// -- the pace of attempts ---------------------------------------------------------------------

/** The waits between attempts: `first`, twice that, ... `maximum`, each shorter by chance. */
export class Backoff {
  #next;

  /** Seconds of the first and of the longest wait, and the part of each that is left to chance. */
  constructor(first = 1, maximum = 30, jitter = 0.5, random = Math.random) {
    Object.assign(this, { first, maximum, jitter, random });
    this.#next = first;
  }

  /** Return the seconds to wait now, and make the next wait twice as long. */
  next() {
    const seconds = Math.min(this.#next, this.maximum);
    this.#next = seconds * 2;
    return seconds * (1 - this.jitter * this.random());
  }

  /** Return how long to wait where a server asks for so many seconds: never less than that. */
  asked(seconds) {
    return seconds + Math.min(seconds, this.first) * this.jitter * this.random();
  }

  /** Begin again with the first wait: something has succeeded. */
  reset() {
    this.#next = this.first;
  }
}

/** Return a new id for a send: 24 hexadecimal digits at random. */
export function newSendId() {
  // Not `randomUUID`, which a page has only over https.
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// -- several servers --------------------------------------------------------------------------

const MOST_NAMED = 4;
const MOST_READ = 64; // of a list that a server has sent

/** Return a list's items in an order of chance. */
export function shuffled(items) {
  const list = [...items];
  for (let left = list.length; left > 1; left -= 1) {
    const at = Math.floor(Math.random() * left);
    [list[at], list[left - 1]] = [list[left - 1], list[at]];
  }
  return list;
}

function parsed(text) {
  try {
    return new URL(text);
  } catch {
    return null;
  }
}

const isHere = ({ hostname }) => /^(localhost|127(\.\d+){3}|\[::1\])$/.test(hostname);

/**
 * Return the URLs of the servers that another one has named, without those that are passed over.
 *
 * The session's token is about to be sent there. So from `wss:` there is no way to `ws:`, nor from
 * this machine to `ws:` beyond it, and a server elsewhere names nothing on this machine.
 *
 * @param {string[]} endpoints as the server wrote them
 * @param {string} from the URL of the server that named them
 */
export function believed(endpoints, from) {
  const here = new URL(from);
  const found = [];
  for (const endpoint of endpoints.slice(0, MOST_READ)) {
    const url = parsed(endpoint);
    if (!["ws:", "wss:"].includes(url?.protocol) || url.username || url.password) continue;
    if (!["jsonl", "auto", null].includes(url.searchParams.get("transport"))) continue;
    url.search = url.hash = "";
    const isSealed = url.protocol === "wss:";
    if (isHere(url) && !isHere(here)) continue;
    if (!isSealed && (here.protocol === "wss:" || (isHere(here) && !isHere(url)))) continue;
    if (!found.includes(url.href)) found.push(url.href);
  }
  return found.slice(0, MOST_NAMED);
}

/** Which server is next: each is gone to once, and then there is a wait. */
class Route {
  #ring;
  #quiet;
  #at = 0; // of the server of the ring that was gone to last
  #named = []; // by a server that ended, and not tried since
  #failed = new Set(); // in this round
  #workedAt = null; // when one was first of use after the last failure

  /** `urls`: of the servers; `quiet`: seconds that one has to work for a round to begin anew. */
  constructor(urls, quiet) {
    this.#ring = urls;
    this.#quiet = quiet;
    this.url = urls[0];
  }

  /** Go on to another server; return whether there is one that has not failed in this round. */
  failed(url, named = []) {
    this.#note(url);
    const those = named.filter((each) => !this.#failed.has(each));
    if (those.length > 0) this.#named = shuffled(those); // all its clients were told the same
    return this.#goOn();
  }

  /** Go to another server first: this one has stopped answering. */
  avoid(url) {
    this.#note(url);
    this.#goOn();
  }

  /** Stay at a server: it has carried a request. */
  works(url) {
    this.#workedAt ??= performance.now();
    this.url = url;
    if (this.#ring.includes(url)) this.#at = this.#ring.indexOf(url);
  }

  #note(url) {
    // Servers that break at once, one after the other, are not gone to in a circle.
    const since = this.#workedAt ?? Infinity;
    if (performance.now() - since >= 1000 * this.#quiet) this.#failed.clear();
    this.#workedAt = null;
    this.#failed.add(url);
    this.#named = this.#named.filter((each) => each !== url);
  }

  #goOn() {
    const named = this.#named.find((each) => !this.#failed.has(each));
    if (named !== undefined) return (this.url = named), true;
    const { length } = this.#ring;
    for (let step = 1; step <= length; step += 1) {
      const at = (this.#at + step) % length;
      if (this.#failed.has(this.#ring[at])) continue;
      [this.#at, this.url] = [at, this.#ring[at]];
      return true;
    }
    this.#failed.clear();
    this.#at = (this.#at + 1) % length;
    this.url = this.#ring[this.#at];
    return false;
  }
}

// -- a connection -----------------------------------------------------------------------------

const BROKE = "the connection to the server broke";

/**
 * One WebSocket: requests out, replies in, in the same order; what `Client` is made of.
 *
 * `broken` is a promise of the error that ended it; what is unanswered then fails with it too.
 * `limits` is what the server accepts, once it has told, `node` how it calls itself, if it does, and
 * `incarnation` what stands for this start of it, if its accounts end with it.
 */
export class Connection {
  #socket;
  #pending = []; // of {id, op, onReply, resolve, reject, seconds, timer}, the oldest first
  #nextId = 1;
  #ended = null; // the error that ended it
  #end;

  /** Take over a WebSocket that is open; `open` is what one calls. */
  constructor(socket, replySeconds = 10) {
    this.#socket = socket;
    this.replySeconds = replySeconds;
    this.frameLimit = 4096; // what every server takes before login, until `hello` tells
    this.limits = this.node = this.incarnation = null;
    this.broken = new Promise((resolve) => (this.#end = resolve));
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => this.fail(new ConnectionLost(event.reason || BROKE));
    socket.onerror = null; // `close` always follows
  }

  /**
   * Open one, and say hello.
   *
   * @throws {NotConnected} the server cannot be reached, or not in time
   */
  static async open(url, {
    WebSocket = globalThis.WebSocket, connectSeconds = 5, replySeconds = 10, name = "twinline.js",
  } = {}) {
    const socket = new WebSocket(url, SUBPROTOCOL);
    await new Promise((resolve, reject) => {
      const refuse = () => {
        clearTimeout(timer);
        socket.onopen = socket.onclose = socket.onerror = null;
        // A socket that is closed before it is open reports an error; nobody is to be told.
        socket.addEventListener("error", () => {});
        socket.close();
        reject(new NotConnected("the server cannot be reached"));
      };
      const timer = setTimeout(refuse, 1000 * connectSeconds);
      socket.onopen = () => (clearTimeout(timer), resolve());
      socket.onclose = socket.onerror = refuse;
    });
    const connection = new Connection(socket, replySeconds);
    // Not awaited: what the caller asks next goes out at once. Should it fail, that fails too.
    connection.ask("hello", { client: name }).then(
      ({ limits, node = null, incarnation = null }) => {
        Object.assign(connection, { limits, node, incarnation });
        connection.frameLimit = limits.frame_bytes;
      },
      (error) => connection.fail(error),
    );
    return connection;
  }

  /** Whether requests can be sent. */
  get isOpen() {
    return this.#ended === null;
  }

  /**
   * Send a request.
   *
   * @param {(reply: object, bytes: number) => void} [onReply] told of each reply, with its size;
   *   for a stream, which has several
   * @param {number} [seconds] until the first reply, and from one to the next
   * @returns {Promise<object>} the last reply
   */
  ask(op, fields, { onReply = () => {}, seconds = this.replySeconds } = {}) {
    return new Promise((resolve, reject) => {
      if (this.#ended !== null) throw this.#ended;
      const id = this.#nextId;
      const line = encodeRequest(id, op, fields);
      if (bytesOf(line) > this.frameLimit) {
        throw new RequestError("frame_too_large", "this is longer than the server takes");
      }
      this.#nextId += 1;
      const asked = { id, op, onReply, resolve, reject, seconds };
      this.#pending.push(asked);
      this.#startClock(asked);
      this.#socket.send(line);
    });
  }

  #startClock(asked) {
    clearTimeout(asked.timer);
    asked.timer = setTimeout(
      () => this.fail(new TimedOut("the server does not answer")),
      1000 * asked.seconds,
    );
  }

  #receive(line) {
    if (this.#ended !== null) return;
    const asked = this.#pending[0];
    try {
      if (typeof line !== "string") throw new RemoteProtocolError("the server sent bytes");
      if (asked === undefined) throw new RemoteProtocolError("the server sent what nobody asked");
      const { id, reply, error } = decodeReply(line, asked.op);
      if (id !== null && id !== asked.id) {
        throw new RemoteProtocolError(`the server answered request ${id}, not ${asked.id}`);
      }
      if (error === undefined) {
        asked.onReply(reply, bytesOf(line));
        if (asked.op === "watch" && reply.more) return this.#startClock(asked);
      }
      clearTimeout(asked.timer);
      this.#pending.shift();
      if (error === undefined) asked.resolve(reply);
      else asked.reject(error);
    } catch (failure) {
      this.fail(failure);
    }
  }

  /** End it because of an error; the first one counts. */
  fail(error) {
    if (this.#ended !== null) return;
    this.#ended = error;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    for (const asked of this.#pending) {
      clearTimeout(asked.timer);
      asked.reject(error);
    }
    this.#pending = [];
    this.#end(error);
  }
}

// -- the mail stream --------------------------------------------------------------------------

const QUIET_MS = 50; // after the last message, before it is acked by a watch of its own
const HALF_BYTES = 32768; // of the 65,536 that a server sends for one watch

/** Return the messages and the receipts of a reply, by their seqs. */
export function entriesOf({ messages, receipts = [] }) {
  return [...messages, ...receipts].sort((one, other) => one.seq - other.seq);
}

/**
 * Keeps a stream open on a connection, and hands its entries on, one after the other.
 *
 * It renews the stream, and acks by that, when half of the window was dealt with, when the stream
 * has ended, and when all that came is dealt with and nothing more comes for a while.
 */
class Stream {
  #open = 0; // watches whose last reply has not come
  #begun = false; // whether there was a watch on this connection
  #began = 0; // when the newest watch was sent
  #acked; // by the newest watch
  #count = 0; // entries dealt with since the newest watch
  #bytes = 0; // of replies since then
  #held = []; // entries that have come and are not dealt with, by their seqs
  #looked = 0; // up to which seq the server has looked for them
  #working = false; // whether they are being dealt with
  #timer;

  /**
   * @param connection on which nothing else is asked
   * @param mailbox has `seen`, the last seq that was dealt with, which this moves on, and
   *   `working`, a promise that is fulfilled when nothing is being dealt with
   * @param settings the client's
   * @param deal handles an entry; what it throws, or a promise that fails, has it called again
   */
  constructor(connection, mailbox, settings, deal) {
    Object.assign(this, { connection, mailbox, settings, deal });
    this.backoff = settings.newBackoff();
    connection.broken.then(() => clearTimeout(this.#timer));
    // An entry that the stream before is dealing with is not to be dealt with twice.
    Promise.resolve(mailbox.working).then(() => this.#renew());
  }

  #renew() {
    clearTimeout(this.#timer);
    if (!this.connection.isOpen) return;
    const { seen } = this.mailbox;
    const { waitSeconds, replySeconds, window, batch, kinds } = this.settings;
    const fields = {
      after: seen, ack: seen, limit: batch, wait: waitSeconds, window, renew: this.#begun,
      kinds,
    };
    this.#begun = true;
    this.#began = performance.now();
    this.#acked = seen;
    this.#count = this.#bytes = 0;
    this.#open += 1;
    let brought = 0;
    const onReply = (reply, bytes) => {
      const entries = entriesOf(reply);
      brought += entries.length;
      this.#bytes += bytes;
      this.#held.push(...entries);
      this.#looked = Math.max(this.#looked, reply.seen);
      if (!this.#working) this.mailbox.working = this.#work();
    };
    this.connection
      .ask("watch", fields, { onReply, seconds: waitSeconds + replySeconds })
      .then(() => this.#ended(brought), (error) => this.#refused(error));
  }

  #ended(brought) {
    this.#open -= 1;
    if (this.#open > 0 || this.#held.length > 0 || this.#working) return;
    // A server that ends empty watches at once is not to be asked in a circle.
    const rest = brought ? 0 : this.#began + 1000 - performance.now();
    this.#renewIn(Math.max(0, rest));
  }

  #renewIn(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#renew(), ms);
  }

  async #refused(error) {
    this.#open -= 1;
    if (!this.connection.isOpen) return;
    if (!(error instanceof RequestError)) return this.connection.fail(error);
    switch (error.code) {
      case "session_expired": case "not_logged_in": case "shutting_down": case "cursor_invalid":
        return this.connection.fail(error);
      default:
        this.#renewIn(Math.max(1000 * this.backoff.next(), error.retryAfter));
    }
  }

  async #work() {
    this.#working = true;
    while (this.#held.length > 0 && this.connection.isOpen) {
      const entry = this.#held[0];
      if (entry.seq > this.mailbox.seen && !(await this.#dealt(entry))) continue;
      this.#held.shift();
      this.#count += 1;
      this.mailbox.seen = Math.max(this.mailbox.seen, entry.seq);
      if (2 * this.#count >= this.settings.window || this.#bytes >= HALF_BYTES) this.#renew();
    }
    this.#working = false;
    if (!this.connection.isOpen) return;
    this.mailbox.seen = Math.max(this.mailbox.seen, this.#looked);
    if (this.#open === 0) this.#renew();
    else if (this.mailbox.seen > this.#acked) this.#renewIn(QUIET_MS);
  }

  async #dealt(entry) {
    try {
      const promise = this.deal(entry);
      if (promise !== undefined) await promise;
      this.backoff.reset();
      return true;
    } catch (error) {
      console.error(`the handler failed for seq ${entry.seq}; it is called again`, error);
      await new Promise((resolve) => setTimeout(resolve, 1000 * this.backoff.next()));
      return false;
    }
  }
}

// -- the client -------------------------------------------------------------------------------

/**
 * Where a client stands; `kind` is one of
 *
 *   logged out      there is no session; nothing is connected
 *   connecting      the first attempt of a session is under way
 *   online          connected; mail comes in
 *   reconnecting    the connection broke, or an attempt failed; commands wait
 *   closed          `close` was called; the last state
 *
 * `reason` is a sentence for a person or null, `retryAt` the moment of the next attempt on the
 * clock of `performance.now()`, in milliseconds, or null while there is none to wait for. `url` is
 * the server's, or that of the one that is tried next; `node` is how it calls itself, or null.
 */
const newState = (kind, reason, retryAt, url, node) =>
  Object.freeze({ kind, reason, retryAt, url, node });

const LONGEST_RETRY_MS = 60_000; // whatever a server asks for
const LAST_WORDS_MS = 100; // that a server's word on one connection may come behind the other's end
const after = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const ENDS_SESSION = new Set(["session_expired", "not_logged_in", "unsupported_version"]);

/** Two connections to a server and the account behind them; see the top of this file. */
export class Client {
  #settings;
  #route;
  #session = null; // {token, username, seen, position}, or null
  #lines = null; // {commands, mail} while online
  #queue = []; // commands, in the order of the calls: {op, fields, line, resolve, reject, ...}
  #state;
  #wake = () => {}; // ends the wait for the next attempt
  #notBefore = 0; // the moment that the server has asked to wait for
  #closed = false;

  /**
   * @param {string | URL | (string | URL)[]} urls where the server is: `wss://host/`, or several
   *   with one state
   * @param {object} options
   * @param {(message: {seq: number, message_id: string, sender: string, body: string,
   *   sent_at: number, to?: string, n?: number}) => void | Promise<void>} [options.onMessage] called
   *   with each message, in order; the message is acknowledged when it has returned, or its promise
   *   is fulfilled, and comes again when it failed. Without it mail is neither fetched nor
   *   acknowledged
   * @param {string[]} [options.kinds] of the entries that come: `mail`, which must be among them,
   *   `sent` for copies, which have `to` and `n` and go to `onMessage` too, and `receipt`
   * @param {(receipt: {seq: number, username: string, n: number, acked_at: number}) =>
   *   void | Promise<void>} [options.onReceipt] called with each receipt, in order with the messages
   * @param {(state: object) => void} [options.onState] called with every state
   * @param {(position: number) => void} [options.onRewind] the server's mailbox was put back to
   *   an earlier one; mail goes on behind that seq
   * @param {typeof WebSocket} [options.WebSocket] where there is no global one
   * @param {string} [options.name] how the client calls itself in `hello`
   * @param {number} [options.connectSeconds] for one attempt to open a connection
   * @param {number} [options.replySeconds] for a reply; then the connection is taken for dead
   * @param {number} [options.commandSeconds] for a command with all its waits and repeats
   * @param {number} [options.waitSeconds] how long a watch waits for mail
   * @param {number} [options.window] messages that are under way at most
   * @param {number} [options.batch] messages of one reply at most
   * @param {number} [options.backoffFirst] seconds to wait after the first failed attempt
   * @param {number} [options.backoffMax] seconds to wait at most
   * @param {number} [options.backoffJitter] the part of a wait that is left to chance
   * @param {boolean} [options.shuffle] whether several servers are tried in an order of chance;
   *   else in the order in which they are given
   * @param {(url: string) => boolean} [options.mayGoTo] whether a server may be gone to that
   *   another one has named, where that is no less safe; else none but those given is
   */
  constructor(urls, options = {}) {
    this.urls = [...new Set((Array.isArray(urls) ? urls : [urls]).map(String))];
    if (this.urls.length === 0) throw new TypeError("give the URL of a server at least");
    const defaults = {
      onMessage: null, onReceipt: () => {}, kinds: ["mail"],
      onState: () => {}, onRewind: () => {},
      WebSocket: globalThis.WebSocket, name: "twinline.js",
      connectSeconds: 5, replySeconds: 10, commandSeconds: 30, waitSeconds: 25,
      window: 256, batch: 64, backoffFirst: 1, backoffMax: 30, backoffJitter: 0.5,
      shuffle: true, mayGoTo: () => true,
    };
    const unknown = Object.keys(options).find((name) => !Object.hasOwn(defaults, name));
    if (unknown !== undefined) throw new TypeError(`there is no option ${unknown}`);
    const settings = { ...defaults, ...options };
    // What is dealt with is acknowledged, and with it all that lies before it.
    if (!settings.kinds.includes("mail")) throw new TypeError("mail is among the kinds");
    if (typeof settings.WebSocket !== "function") {
      throw new TypeError("there is no global WebSocket here: give one as the option WebSocket");
    }
    settings.newBackoff = () =>
      new Backoff(settings.backoffFirst, settings.backoffMax, settings.backoffJitter);
    this.#settings = settings;
    const order = settings.shuffle ? shuffled(this.urls) : this.urls;
    this.#route = new Route(order, settings.backoffFirst);
    this.#state = newState("logged out", null, null, this.#route.url, null);
  }

  /** The server that the client is at, or tries next. */
  get url() {
    return this.#route.url;
  }

  /** How that server calls itself; null before it has, or where it has no name. */
  get node() {
    return this.#state.node;
  }

  /** Where the client stands: `{kind, reason, retryAt, url, node}`. */
  get state() {
    return this.#state;
  }

  /** The account, as the server spells it; null without a session. */
  get username() {
    return this.#session?.username ?? null;
  }

  /** The session's token, a secret that `resume` takes; null without a session. */
  get token() {
    return this.#session?.token ?? null;
  }

  /** What the server accepts, as `hello` tells it; null before the first connection. */
  limits = null;

  /**
   * What stands for this start of the server, as `hello` tells it where accounts end with it; else
   * null. Another one means that all accounts of before are gone.
   */
  incarnation = null;

  // -- sessions ---------------------------------------------------------------------------

  /**
   * Log in. Tries each server once: a person who waits for it can try again. If the reply to a
   * login with a new password is lost, that password is tried, once.
   *
   * @param {{newPassword?: string | null}} more what the password is to be from now on:
   *   `password_change_required` asks for it
   * @returns {Promise<{username: string, session: string, position: number, unread: number}>}
   */
  async login(username, password, { newPassword = null } = {}) {
    try {
      return await this.#begin("login", { username, password, new_password: newPassword });
    } catch (error) {
      const isInDoubt = error instanceof ConnectionLost || error instanceof TimedOut;
      if (newPassword === null || !isInDoubt || this.#closed || this.#session) throw error;
      try {
        return await this.#begin("login", { username, password: newPassword });
      } catch (second) {
        throw second instanceof ClientClosed ? second : error;
      }
    }
  }

  /** Log in by the certificate that the browser, or Node, has shown; like `login`. */
  loginCertificate() {
    return this.#begin("login_certificate", {});
  }

  /** Create an account, and be logged in; like `login`. Some servers ask for an invitation. */
  createAccount(username, password, { invitation = null } = {}) {
    return this.#begin("create_account", { username, password, invitation });
  }

  /**
   * Go on with a session. Tries until there is an answer; `onState` tells of the attempts.
   *
   * @param {string} token as `token` or the reply to a login has it
   * @throws {RequestError} `session_expired`: the server does not know it any more
   */
  async resume(token) {
    this.#requireNoSession();
    const session = { token, username: null, seen: null, position: null };
    this.#session = session;
    this.#enter("connecting");
    const resumed = new Promise((resolve, reject) => Object.assign(session, { resolve, reject }));
    this.#keep(session, null);
    return resumed;
  }

  /** Revoke the session; both connections end. `seconds`: how long to try. */
  async logout({ seconds } = {}) {
    await this.#leave("logout", {}, { seconds });
  }

  /** Set another password; every other session of the account is revoked. */
  async changePassword(password, newPassword) {
    await this.request("change_password", { password, new_password: newPassword });
  }

  /** Delete the account with its mail; `force`: even with mail that was not acknowledged. */
  async deleteAccount(password, { force = false } = {}) {
    await this.#leave("delete_account", { password, force });
  }

  // -- commands ---------------------------------------------------------------------------

  /**
   * Send a message. The promise is fulfilled when the server's store has it.
   *
   * @param {{sendId?: string, copy?: boolean, seconds?: number}} [options] an id under which a
   *   repeat of this send stores nothing twice, whether a copy is kept in the own mailbox, and how
   *   long to try, Infinity for as long as the session lasts
   * @returns {Promise<{message_id: string, sent_at: number, n: number}>}
   */
  send(to, body, { sendId = newSendId(), copy, seconds } = {}) {
    return this.request("send", { to, body, send_id: sendId, copy }, { seconds });
  }

  /** Return a page of usernames: `{usernames, more}`; `*` and `?` in the pattern, `\` escapes. */
  listAccounts({ pattern, after, limit } = {}) {
    return this.request("list_accounts", { pattern, after, limit });
  }

  /**
   * Return a page of the mailbox, going back in time: `{messages, receipts, more, seen, account}`,
   * the newest last; `seen` is the next `before`, and `account` says who has the peer's name now.
   *
   * @param {{before?: number, limit?: number, peer?: string, account?: string, kinds?: string[]}}
   *   [options] `peer`: only what that account has sent, and the copies of what was sent to it;
   *   `account`: which one of that name, as `conversations` has it
   */
  async history({ before, limit, peer, account, kinds } = {}) {
    const reply = await this.request("history", { before, limit, with: peer, account, kinds });
    return { receipts: [], account: null, ...reply };
  }

  /**
   * Return a page of conversations: `{conversations, more}`, the newest message first. Each has its
   * `account`: of two that had one name, each is a conversation.
   */
  conversations({ before, limit } = {}) {
    return this.request("conversations", { before, limit });
  }

  /** Refuse what an account sends from now on. */
  async block(username) {
    await this.request("block", { username });
  }

  /** Take mail of an account again. */
  async unblock(username) {
    await this.request("unblock", { username });
  }

  /** Return the usernames of those whose mail is refused, sorted. */
  async blocked() {
    return (await this.request("list_blocked")).usernames;
  }

  /** Let senders be told what this account acknowledges, and be told it of others, or not. */
  async setReceipts(receipts) {
    await this.request("set_receipts", { receipts });
  }

  /** Delete messages of the own mailbox; return how many there were. */
  async deleteMessages(seqs) {
    return (await this.request("delete_messages", { seqs: [...seqs] })).deleted;
  }

  /** Return where a message is that this account has sent: `{state, sent_at, acked_at}`. */
  async trace(messageId, to) {
    const reply = await this.request("trace", { message_id: messageId, to });
    return { sent_at: null, acked_at: null, ...reply };
  }

  /** Return `{username, position, unread, receipts}`. */
  status() {
    return this.request("status");
  }

  /** Ask whether the server answers. */
  async ping() {
    await this.request("ping");
  }

  /**
   * Carry out any request of the protocol, behind those before it.
   *
   * While there is no connection it waits for one. When the connection breaks before the reply, it
   * is repeated if that does no harm, else it fails with `ConnectionLost`.
   *
   * @param {string} op but for those that open a session, and `watch`
   * @param {object} [fields] as the protocol has them
   * @param {{seconds?: number}} [options] for all of it; Infinity for as long as the session lasts
   * @returns {Promise<object>} the reply's fields
   */
  request(op, fields = {}, { seconds = this.#settings.commandSeconds } = {}) {
    return new Promise((resolve, reject) => {
      if (this.#closed) throw new ClientClosed("the client is closed");
      if (this.#session === null) throw new RequestError("not_logged_in", "log in first");
      encodeRequest(0, op, fields); // what cannot be sent is refused now
      const command = { op, fields, line: null, sent: false, resolve, reject };
      if (seconds !== Infinity) {
        command.timer = setTimeout(() => this.#giveUp(command), 1000 * seconds);
      }
      this.#queue.push(command);
      this.#flush();
    });
  }

  /**
   * Make the next attempt now, if one is waited for: the network is back, say. Not before the time
   * that the server has asked for.
   */
  retryNow() {
    if (performance.now() >= this.#notBefore) this.#wake();
  }

  /** Acknowledge what is dealt with, and end; the session goes on at the server. */
  async close() {
    if (this.#closed) return;
    const { seen, position } = this.#session ?? {};
    const commands = this.#lines?.commands;
    this.#closed = true;
    if (commands?.isOpen && this.#settings.onMessage !== null && seen > position) {
      await commands.ask("ack", { up_to: seen }, { seconds: 1 }).catch(() => {});
    }
    this.#drop(new ClientClosed("the client is closed"));
    this.#enter("closed");
  }

  // -- the session's life -----------------------------------------------------------------

  /** Carry out a request that ends the session. */
  async #leave(op, fields, options) {
    const reply = this.request(op, fields, options);
    const session = this.#session;
    // The watch is told of the end before this is answered.
    if (session !== null) session.leaving = reply.catch(() => {});
    try {
      await reply;
    } finally {
      if (session !== null) session.leaving = null;
    }
    this.#end(null);
  }

  #requireNoSession() {
    if (this.#closed) throw new ClientClosed("the client is closed");
    if (this.#session !== null) {
      throw new RequestError("already_logged_in", "there is a session: log out first");
    }
  }

  async #begin(op, fields) {
    this.#requireNoSession();
    const session = { token: null, username: null, seen: null, position: null };
    this.#session = session;
    this.#enter("connecting");
    for (;;) {
      const { url } = this.#route;
      let commands;
      try {
        commands = await Connection.open(url, this.#settings);
        const reply = await this.#ask(commands, op, fields, this.#settings.commandSeconds);
        if (this.#session !== session) throw new ClientClosed("the client is closed");
        this.#bind(session, reply);
        this.#keep(session, commands);
        return reply;
      } catch (error) {
        commands?.fail(error);
        const isAway = error instanceof NotConnected;
        if (isAway || error.code === "shutting_down") {
          const goesOn = this.#route.failed(url, this.#named(error, url));
          if (goesOn && isAway && this.#session === session) continue;
        }
        if (this.#session === session) {
          this.#session = null;
          this.#enter("logged out");
        }
        throw error;
      }
    }
  }

  /** Return the servers that one names as it ends, as far as they may be gone to. */
  #named(error, url) {
    const named = believed(error.endpoints ?? [], url);
    return named.filter((each) => this.urls.includes(each) || this.#settings.mayGoTo(each));
  }

  /** Open or resume a session; what the server has said of itself is known by its answer. */
  async #ask(connection, op, fields, seconds) {
    try {
      return await connection.ask(op, fields, { seconds });
    } finally {
      const { limits, incarnation } = connection;
      if (limits !== null) Object.assign(this, { limits, incarnation });
    }
  }

  #bind(session, reply) {
    Object.assign(session, { token: reply.session, username: reply.username });
    session.seen ??= reply.position;
    session.position = reply.position;
    session.unread = reply.unread;
  }

  /** Keep both connections open for as long as the session lasts. */
  async #keep(session, commands) {
    const backoff = this.#settings.newBackoff();
    const lasts = () => this.#session === session && !this.#closed;
    while (lasts()) {
      let since = null;
      let broke;
      const { url } = this.#route;
      try {
        commands ??= await this.#resumed(session, url);
        const mail = this.#settings.onMessage && (await this.#resumed(session, url));
        if (!lasts()) {
          commands.fail(new ClientClosed("the session has ended"));
          mail?.fail(new ClientClosed("the session has ended"));
          return;
        }
        since = performance.now();
        this.#route.works(url);
        this.#online(session, commands, mail);
        broke = await Promise.race([commands.broken, mail?.broken ?? new Promise(() => {})]);
        if (!(broke instanceof RequestError) && mail) {
          // A server that ends closes this one without a word, and tells the watch what is next.
          const said = await Promise.race([mail.broken, after(LAST_WORDS_MS)]);
          if (said instanceof RequestError) broke = said;
        }
        mail?.fail(broke);
        if (ENDS_SESSION.has(broke.code) && session.leaving) {
          await Promise.race([session.leaving, commands.broken]);
        }
      } catch (error) {
        broke = error;
      }
      commands?.fail(broke);
      commands = this.#lines = null;
      if (!lasts()) return;
      if (ENDS_SESSION.has(broke.code)) return this.#end(broke);
      this.#interrupt(broke);
      if (broke.code === "cursor_invalid") session.seen = null; // it begins at the new position
      // One that was of use is replaced at once, but not again and again.
      const useful = since !== null && performance.now() - since > 1000 * backoff.first;
      if (useful) backoff.reset();
      let seconds = 0;
      if (useful && !(broke instanceof RequestError)) {
        if (broke instanceof TimedOut) this.#route.avoid(url);
      } else {
        const goesOn = this.#route.failed(url, this.#named(broke, url));
        if (!goesOn) seconds = backoff.next();
        const asked = Math.min(broke.retryAfter ?? 0, LONGEST_RETRY_MS) / 1000;
        seconds = Math.max(seconds, backoff.asked(asked));
        this.#notBefore = performance.now() + 1000 * asked;
      }
      if (seconds > 0) await this.#pause(1000 * seconds, broke.message);
      else this.#enter("reconnecting", broke.message);
    }
  }

  /** Return a new connection that is bound to the session. */
  async #resumed(session, url) {
    const connection = await Connection.open(url, this.#settings);
    try {
      const rewound = session.seen === null && session.username !== null;
      const reply = await this.#ask(connection, "resume", { session: session.token });
      this.#bind(session, reply);
      if (rewound) this.#settings.onRewind(reply.position);
      return connection;
    } catch (error) {
      connection.fail(error);
      throw error;
    }
  }

  #online(session, commands, mail) {
    this.#lines = { commands, mail };
    const { onMessage, onReceipt } = this.#settings;
    const deal = (entry) => (entry.message_id === undefined ? onReceipt : onMessage)(entry);
    if (mail !== null) new Stream(mail, session, this.#settings, deal);
    else this.#tryNowAndThen(commands);
    this.#enter("online");
    const { username, token, position, unread } = session;
    session.resolve?.({ username, session: token, position, unread });
    this.#flush();
  }

  /** Find out when a connection breaks on which nothing else is asked. */
  #tryNowAndThen(connection) {
    const timer = setInterval(
      () => connection.ask("ping", {}).catch(() => {}),
      1000 * this.#settings.waitSeconds,
    );
    connection.broken.then(() => clearInterval(timer));
  }

  async #pause(ms, reason) {
    this.#enter("reconnecting", reason, performance.now() + ms);
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => (clearTimeout(timer), resolve());
    });
    this.#wake = () => {};
    if (!this.#closed && this.#session !== null) {
      this.#enter("reconnecting", reason);
    }
  }

  /** End the session: the server does not know it, or it was logged out. */
  #end(error) {
    if (this.#session === null) return;
    this.#drop(error ?? new RequestError("not_logged_in", "the session was logged out"));
    this.#enter("logged out", error?.message ?? null);
  }

  #drop(error) {
    const session = this.#session;
    this.#session = null;
    this.#wake();
    this.#lines?.commands.fail(error);
    this.#lines?.mail?.fail(error);
    this.#lines = null;
    for (const command of this.#queue.splice(0)) this.#settle(command, "reject", error);
    session?.reject?.(error);
  }

  #enter(kind, reason = null, retryAt = null) {
    if (this.#state.kind === "closed") return;
    const node = this.#lines?.commands.node ?? null;
    const state = newState(kind, reason, retryAt, this.#route.url, node);
    this.#state = state;
    try {
      this.#settings.onState(state);
    } catch (error) {
      console.error("onState failed", error);
    }
  }

  // -- the queue of commands --------------------------------------------------------------

  /** Send what was not sent on the present connection. */
  #flush() {
    const line = this.#lines?.commands;
    if (!line?.isOpen) return;
    for (const command of [...this.#queue]) {
      if (command.line === line) continue;
      command.line = line;
      command.sent = true;
      line.ask(command.op, command.fields).then(
        (reply) => this.#settle(command, "resolve", reply),
        (error) => this.#failed(command, line, error),
      );
    }
  }

  #failed(command, line, error) {
    if (!(error instanceof RequestError)) return; // the connection broke: `#interrupt` decides
    const { repeatable } = REQUESTS[command.op];
    if (ENDS_SESSION.has(error.code) || (error.code === "shutting_down" && repeatable)) {
      line.fail(error);
    } else {
      this.#settle(command, "reject", error);
    }
  }

  /** The connection broke: what may be repeated waits for the next one, in its place. */
  #interrupt(error) {
    for (const command of [...this.#queue]) {
      if (command.line === null) continue;
      command.line = null;
      if (!REQUESTS[command.op].repeatable) {
        const what = `${command.op} may or may not have been done: ${error.message}`;
        const Kind = error instanceof TimedOut ? TimedOut : ConnectionLost;
        this.#settle(command, "reject", new Kind(what));
      }
    }
  }

  #giveUp(command) {
    const error = command.sent
      ? new TimedOut(`${command.op} may or may not have been done: there was no reply in time`)
      : new NotConnected("there was no connection in time; nothing was sent");
    this.#settle(command, "reject", error);
  }

  #settle(command, how, value) {
    clearTimeout(command.timer);
    const at = this.#queue.indexOf(command);
    if (at >= 0) this.#queue.splice(at, 1);
    command[how](value);
  }
}
