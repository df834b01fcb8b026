/**
 * Shows text from others so that it can neither hide anything nor reorder what stands beside it.
 *
 * Text is only ever put into text nodes, so nothing in it is markup. Control characters, direction
 * marks and blank letters are shown by their number; where each text stands is isolated
 * (`dir="auto"`, `unicode-bidi`), so that its direction stays its own.
 */

import { el } from "./dom.js";

// What has no picture: controls, format characters, unassigned and private ones, halves of pairs,
// separators of lines, and letters that are blank by definition.
const BLANK = "\\u034f\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u3164\\uffa0";
const UNSEEN = new RegExp(`[\\p{Cc}\\p{Cf}\\p{Cn}\\p{Co}\\p{Cs}\\p{Zl}\\p{Zp}${BLANK}]`, "gu");
// Scripts whose letters join: there the two joiners are spelling, and between pictographs one
// makes one picture of two.
const SCRIPTS = `Arabic Syriac Devanagari Bengali Gurmukhi Gujarati Oriya Tamil Telugu Kannada
  Malayalam Sinhala`.split(/\s+/);
const JOINING = new RegExp(`[${SCRIPTS.map((name) => `\\p{Script=${name}}`).join("")}]`, "u");
const PICTURE = /[\p{Extended_Pictographic}\p{Emoji_Modifier}\ufe0f]/u;
const FLAG = /^\u{1f3f4}[\u{e0030}-\u{e0039}\u{e0061}-\u{e007a}]{1,8}\u{e007f}/u; // of a region

/** Return the nodes that show a text; with `line`, on one line. */
export function visible(text, { line = false } = {}) {
  const nodes = [];
  let from = 0;
  let flagEnds = 0;
  for (const match of text.matchAll(UNSEEN)) {
    const [character] = match;
    const at = match.index;
    if (at < flagEnds) continue;
    if (isFlag(text, at)) {
      flagEnds = at + FLAG.exec(text.slice(at - 2))[0].length - 2;
      continue;
    }
    if (!line && (character === "\n" || character === "\t")) continue;
    if (!line && character === "\r" && text[at + 1] === "\n") continue;
    if (joins(text, at, character)) continue;
    if (at > from) nodes.push(text.slice(from, at));
    nodes.push(line && /\s/.test(character) ? " " : picture(character));
    from = at + character.length;
  }
  if (from < text.length) nodes.push(text.slice(from));
  return nodes;
}

/** Return a text on one line with nothing hidden in it, for where there are no elements. */
export function plain(text) {
  return visible(text, { line: true }).map((node) => node.textContent ?? node).join("");
}

function isFlag(text, at) {
  return at >= 2 && text.codePointAt(at - 2) === 0x1f3f4 && FLAG.test(text.slice(at - 2, at + 24));
}

function joins(text, at, character) {
  if (character !== "\u200d" && character !== "\u200c") return false;
  const before = lastOf(text.slice(Math.max(0, at - 2), at));
  const after = String.fromCodePoint(text.codePointAt(at + 1) ?? 0);
  if (character === "\u200d" && PICTURE.test(before) && PICTURE.test(after)) return true;
  return JOINING.test(before) && JOINING.test(after);
}

const lastOf = (text) => Array.from(text).at(-1) ?? "";

function picture(character) {
  const number = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  const about = { className: "unseen", title: "a character that has no picture" };
  return el("span", about, `U+${number}`);
}

// -- day and time -------------------------------------------------------------------------------

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const OLD_DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "long" });
const SHORT = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const LAST_MOMENT = 8.64e15; // that a Date can be; only a strange server sends one beyond

const date = (at) => new Date(Math.min(at, LAST_MOMENT));

/** Return the number of the day, in the reader's time zone, that a moment is in. */
export function dayOf(at) {
  const moment = date(at);
  return Math.floor((moment.getTime() - moment.getTimezoneOffset() * 60000) / 86400000);
}

/** Return how the day of a moment is called: today, yesterday, or by its date. */
export function dayName(at, now = Date.now()) {
  const ago = dayOf(now) - dayOf(at);
  if (ago === 0) return "Today";
  if (ago === 1) return "Yesterday";
  const sameYear = date(at).getFullYear() === date(now).getFullYear();
  return (sameYear ? DAY : OLD_DAY).format(date(at));
}

/** Return an element with the time of day of a moment, and all of it in its title. */
export function clock(at) {
  const moment = date(at);
  const properties = { dateTime: moment.toISOString(), title: FULL.format(moment) };
  return el("time", properties, CLOCK.format(moment));
}

/** Return a moment in a few characters: the time of day, or the day if it was another one. */
export function shortly(at, now = Date.now()) {
  return (dayOf(at) === dayOf(now) ? CLOCK : SHORT).format(date(at));
}
