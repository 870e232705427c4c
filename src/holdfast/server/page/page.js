// The live page: the list of sessions, kept up to date. Everything that comes from a session is hostile: it enters the
// document as text and in no other way.

import { build, renew } from "./card.js";
import { KEY, lists, why } from "./server.js";
import { bytes, number, text } from "./words.js";

const AT_ONCE = 20; // cards drawn before "show more"
const SILENCE = 40_000; // ms without a sign of life from the server, which gives one every 15 s
const WAITS = [1, 2, 4, 8, 15]; // seconds before trying again

const find = (id) => document.getElementById(id);
const TOAST = 8_000; // ms that a note stays
const sections = new Map(); // id of a session that is no fork -> its part of the page
const latest = new Map(); // id -> the row that was told last
const cards = new Map(); // id -> card, for the sessions that are drawn
let order = []; // ids of all sessions; those known keep their place, so that nothing jumps under a pointer
let shown = AT_ONCE;
let stream = new AbortController();
let rekeyed = false;
let wake = () => {};

async function follow() {
  for (let failed = 0; ; failed++) {
    const { spoke, error } = await listen();
    if (spoke) failed = 0;
    if (rekeyed) {
      failed = -1;
    } else if (error?.status === 401) {
      update([]);
      find("empty").hidden = true;
      state("waiting", "Waiting for a key");
      askForKey(sessionStorage.getItem(KEY) ? error.message : "");
      await new Promise((resolve) => (wake = resolve));
      failed = -1;
    } else {
      const seconds = WAITS[Math.min(failed, WAITS.length - 1)];
      const told = error ? why(error) : "the server closed the connection";
      state("broken", `Not live: ${told}. Trying again in ${seconds} s`);
      await new Promise((resolve) => setTimeout((wake = resolve), seconds * 1000));
    }
  }
}

/** Follow the server until it or the connection ends; never throws. */
async function listen() {
  let spoke = false;
  let watch = 0;
  const gone = (stream = new AbortController());
  const heard = () => {
    clearTimeout(watch);
    watch = setTimeout(() => gone.abort(), SILENCE);
  };
  rekeyed = false;
  heard();
  try {
    for await (const { rows, locked } of lists(gone.signal, heard)) {
      spoke = true;
      state("live", "Live");
      update(rows);
      offerKey(locked && rows.length === 0);
    }
    return { spoke };
  } catch (error) {
    return { spoke, error };
  } finally {
    clearTimeout(watch);
  }
}

function askForKey(told) {
  find("key-told").textContent = told;
  find("key").hidden = false;
  find("other-key").hidden = true;
  find("key-text").value = "";
  find("key-text").focus();
}

/** Without a key nothing is shown, and yet there is something to show: open the field, and say so. */
function offerKey(wanted) {
  const open = !find("key").hidden;
  find("locked").hidden = !wanted;
  if (wanted && !open) askForKey("");
  if (wanted) find("empty").hidden = true;
}

function takeKey(event) {
  event.preventDefault();
  sessionStorage.setItem(KEY, find("key-text").value.trim());
  find("key").hidden = true;
  find("locked").hidden = true;
  find("other-key").hidden = false;
  update([]);
  find("empty").hidden = true;
  state("waiting", "Connecting…");
  rekeyed = true;
  stream.abort();
  wake();
}

function state(kind, words) {
  const place = find("state");
  place.dataset.state = kind;
  if (place.textContent !== words) place.textContent = words;
}

function update(rows) {
  const byId = new Map(rows.map((row) => [row.id, row]));
  const known = new Set(order);
  const fresh = rows.filter((row) => !known.has(row.id)).sort((a, b) => b.updated - a.updated);
  order = [...fresh.map((row) => row.id), ...order.filter((id) => byId.has(id))];
  for (const row of rows) announce(row);
  find("empty").hidden = rows.length > 0;
  find("legend").hidden = rows.length === 0;
  find("totals").textContent = rows.length ? totals(rows) : "";
  draw(byId, families(byId));
  find("more").onclick = () => {
    shown += AT_ONCE;
    update(rows);
  };
}

/** Say that a compaction was taken over, wherever on the page its session is. */
function announce(row) {
  const before = latest.get(row.id);
  latest.set(row.id, row);
  if (!before || row.compactions <= before.compactions) return;
  const note = text("p", `Compacted: ${number.format(before.slots)} slots became ${number.format(row.slots)}`);
  note.prepend(text("b", row.title || row.id), " ");
  note.className = "toast";
  find("toasts").append(note);
  setTimeout(() => note.remove(), TOAST);
}

/** Root session -> its forks, and theirs. A fork whose origin is gone stands for itself. */
function families(byId) {
  const found = new Map();
  const root = (id, steps = 0) => {
    const parent = byId.get(id).parent;
    return parent && byId.has(parent) && steps < byId.size ? root(parent, steps + 1) : id;
  };
  for (const id of order) {
    const top = root(id);
    if (!found.has(top)) found.set(top, []);
    if (top !== id) found.get(top).push(id);
  }
  return found;
}

function totals(rows) {
  const sum = (name) => rows.reduce((total, row) => total + row[name], 0);
  const sessions = `${number.format(rows.length)} ${rows.length === 1 ? "session" : "sessions"}`;
  return `${sessions}: ${number.format(sum("tokens"))} tokens said, held in ${bytes(sum("bytes"))} instead of ${bytes(sum("bytes_full"))}`;
}

function draw(byId, groups) {
  const wanted = [...groups.keys()].slice(0, shown);
  const drawn = new Set(wanted.flatMap((id) => [id, ...groups.get(id)]));
  for (const [id, card] of cards) {
    if (!drawn.has(id)) {
      card.root.remove();
      cards.delete(id);
    }
  }
  for (const id of [...sections.keys()].filter((id) => !wanted.includes(id))) {
    sections.get(id).remove();
    sections.delete(id);
  }
  let before = null;
  for (const id of wanted) {
    const section = sections.get(id) ?? family();
    sections.set(id, section);
    if (!section.isConnected) before ? before.after(section) : find("sessions").prepend(section);
    before = section;
    place(section.querySelector(".root"), [id], byId, () => byId.get(id).title);
    const forks = groups.get(id);
    section.querySelector("details").hidden = forks.length === 0;
    section.querySelector("summary").textContent = forks.length === 1 ? "1 fork" : `${number.format(forks.length)} forks`;
    place(section.querySelector(".forks"), forks, byId, (fork, at) => `Fork ${at + 1}: ${byId.get(fork).newest}`);
  }
  find("more").hidden = groups.size <= shown;
  find("more").textContent = `Show more of ${number.format(groups.size)} sessions`;
}

function family() {
  return document.getElementById("family").content.firstElementChild.cloneNode(true);
}

/** Have the cards of some sessions in a place, in this order. */
function place(where, ids, byId, title) {
  let before = null;
  ids.forEach((id, at) => {
    const card = cards.get(id) ?? build(id);
    cards.set(id, card);
    if (card.root.parentElement !== where) before ? before.after(card.root) : where.prepend(card.root);
    before = card.root;
    renew(card, byId.get(id), title(id, at), [...byId.values()]);
  });
}

find("openai-url").textContent = new URL("v1", document.baseURI).href;
find("anthropic-url").textContent = new URL(".", document.baseURI).href.replace(/\/$/, "");
find("key").addEventListener("submit", takeKey);
find("other-key").addEventListener("click", () => askForKey(""));
follow();
