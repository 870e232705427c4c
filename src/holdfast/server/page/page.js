// The live page: the list of sessions, kept up to date. Everything that comes from a session is hostile: it enters the
// document as text and in no other way.

import { build, renew } from "./card.js";
import { KEY, lists, why } from "./server.js";
import { bytes, number } from "./words.js";

const AT_ONCE = 20; // cards drawn before "show more"
const SILENCE = 40_000; // ms without a sign of life from the server, which gives one every 15 s
const WAITS = [1, 2, 4, 8, 15]; // seconds before trying again

const find = (id) => document.getElementById(id);
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
    for await (const rows of lists(gone.signal, heard)) {
      spoke = true;
      state("live", "Live");
      update(rows);
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

function takeKey(event) {
  event.preventDefault();
  sessionStorage.setItem(KEY, find("key-text").value.trim());
  find("key").hidden = true;
  find("other-key").hidden = false;
  update([]);
  find("empty").hidden = true;
  state("waiting", "Connecting…");
  rekeyed = true;
  stream.abort();
  wake();
}

function state(kind, text) {
  const place = find("state");
  place.dataset.state = kind;
  if (place.textContent !== text) place.textContent = text;
}

function update(rows) {
  const byId = new Map(rows.map((row) => [row.id, row]));
  const known = new Set(order);
  const fresh = rows.filter((row) => !known.has(row.id)).sort((a, b) => b.updated - a.updated);
  order = [...fresh.map((row) => row.id), ...order.filter((id) => byId.has(id))];
  find("empty").hidden = rows.length > 0;
  find("legend").hidden = rows.length === 0;
  find("totals").textContent = rows.length ? totals(rows) : "";
  draw(byId);
  find("more").onclick = () => {
    shown += AT_ONCE;
    update(rows);
  };
}

function totals(rows) {
  const sum = (name) => rows.reduce((total, row) => total + row[name], 0);
  const sessions = `${number.format(rows.length)} ${rows.length === 1 ? "session" : "sessions"}`;
  return `${sessions}: ${number.format(sum("tokens"))} tokens said, held in ${bytes(sum("bytes"))} instead of ${bytes(sum("bytes_full"))}`;
}

function draw(byId) {
  const wanted = order.slice(0, shown);
  for (const [id, card] of cards) {
    if (!wanted.includes(id)) {
      card.root.remove();
      cards.delete(id);
    }
  }
  let before = null;
  for (const id of wanted) {
    const card = cards.get(id) ?? build(id);
    cards.set(id, card);
    if (!card.root.isConnected) before ? before.after(card.root) : find("sessions").prepend(card.root);
    before = card.root;
    renew(card, byId.get(id));
  }
  find("more").hidden = order.length <= shown;
  find("more").textContent = `Show more of ${number.format(order.length)} sessions`;
}

find("openai-url").textContent = new URL("v1", document.baseURI).href;
find("anthropic-url").textContent = new URL(".", document.baseURI).href.replace(/\/$/, "");
find("key").addEventListener("submit", takeKey);
find("other-key").addEventListener("click", () => askForKey(""));
follow();
