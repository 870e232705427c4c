// One session: its bars, its numbers, its evidence and what can be done with it.

import { sawtooth } from "./curve.js";
import { at, call, why } from "./server.js";
import { bytes, number, pairs, text } from "./words.js";

const MOST_SHOWN = 50_000; // characters of a turn
const SAID = {
  verbatim: "Kept word for word: the model holds every token.",
  compacted: "Compacted inside the model; no fact of it was found lost.",
  repaired: "Compacted; facts that were lost at first have been put back.",
  lost: "Compacted; some of its facts are lost.",
};
const DOING = { reading: "reads a prompt", answering: "answers", compacting: "is being compacted" };
const UNMEASURED = "Compacted inside the model; what it lost was not measured.";

/** A card for a session, empty until `renew` fills it. */
export function build(id) {
  const root = document.getElementById("card").content.firstElementChild.cloneNode(true);
  const part = (selector) => root.querySelector(selector);
  const card = { id, root, part, row: null, detail: null, chosen: -1, loading: false, stale: false, asked: 0, waits: false, title: "", rows: [] };
  const raw = part(".raw");
  raw.addEventListener("keydown", (event) => steer(card, event));
  for (const bar of [raw, part(".held")]) {
    bar.addEventListener("click", (event) => {
      const at = [...bar.children].indexOf(event.target);
      if (at >= 0) choose(card, at);
    });
  }
  root.addEventListener("click", (event) => {
    const what = event.target.dataset?.do;
    if (what) DO[what](card);
  });
  return card;
}

/** Show a new row under a title; what lies below it is fetched where the session has changed. `rows`: of all sessions. */
export function renew(card, row, title, rows) {
  const moved = card.row?.updated !== row.updated;
  card.row = row;
  card.title = title ?? card.title;
  card.rows = rows ?? card.rows;
  card.part("h2").textContent = card.title || "(no task yet)";
  const where = doing(row) || (row.resident ? "in memory" : "on disk");
  const when = row.updated ? new Date(row.updated * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : "–";
  card.part(".hint").textContent = `turn ${number.format(row.turns)} · ${where} · changed ${when} · ${row.id.slice(0, 8)}`;
  card.part('[data-do="undo"]').disabled = row.compactions === 0 || card.working;
  if (card.waits) tell(card, waiting(card), false);
  captions(card);
  // to read a session that is on disk takes memory from those at work: only its user asks for that
  card.part('[data-do="wake"]').hidden = row.resident || card.detail !== null;
  if (row.resident && (moved || !card.detail)) load(card);
}

function doing(row) {
  return row.activities.map((activity) => DOING[activity]).join(", ") || (row.busy ? "at work" : "");
}

/** What a compaction that was asked for waits for. */
function waiting(card) {
  const { activities } = card.row;
  if (activities.includes("compacting")) return "Compacting…";
  if (activities.includes("answering")) return "Waits for the answer that is being generated…";
  if (activities.includes("reading")) return "Waits for the prompt that is being read…";
  const other = card.rows.find((row) => row.id !== card.id && row.activities.includes("compacting"));
  return other ? `Waits for the compaction of “${other.title || other.id}”…` : "Compacting…";
}

async function load(card) {
  card.stale = true;
  if (card.loading) return;
  card.loading = true;
  try {
    while (card.stale) {
      card.stale = false;
      const answer = await call(at(card.id, "?texts=false"));
      card.detail = await answer.json();
      card.part('[data-do="wake"]').hidden = true;
      bars(card);
      captions(card);
      sawtooth(card.part("figure"), card.detail.rounds, card.detail.curve);
      if (card.chosen >= 0) choose(card, Math.min(card.chosen, card.detail.blocks.length - 1));
    }
  } catch (error) {
    if (error.status !== 404) tell(card, why(error), true); // a session that has gone leaves the list by itself
  } finally {
    card.loading = false;
  }
}

function captions(card) {
  const row = card.row;
  label(card.part(".said"), "Said", `${number.format(row.tokens)} tokens`);
  label(card.part(".kept"), "Held", `${number.format(row.slots)} slots`);
  pairs(card.part(".numbers"), [
    ["Memory", `${bytes(row.bytes)} of ${bytes(row.bytes_full)}`],
    ["Ratio", row.bytes ? `${(row.bytes_full / row.bytes).toFixed(1)}×` : "–"],
    ["Compactions", number.format(row.compactions)],
    ["Prefilled", prefilled(card.detail?.rounds ?? [])],
  ]);
}

function label(place, name, value) {
  place.replaceChildren(`${name} `, text("b", value));
}

function prefilled(rounds) {
  const sent = rounds.reduce((sum, round) => sum + round.prompt_tokens, 0);
  const read = rounds.reduce((sum, round) => sum + round.prefilled, 0);
  return sent ? `${((100 * read) / sent).toFixed(read / sent < 0.1 ? 1 : 0)} % of what was sent` : "–";
}

function bars(card) {
  const { blocks, tokens, slots } = card.detail;
  const raw = card.part(".raw");
  raw.setAttribute("aria-label", `Blocks of the session ${card.title}; arrow keys go from block to block`);
  raw.style.setProperty("--blocks", blocks.length);
  raw.replaceChildren(...blocks.map((block, i) => option(card, block, i)));
  const held = card.part(".held");
  held.replaceChildren(...blocks.map((block) => piece(block, block.slots)));
  held.style.width = `${Math.min(100, (100 * slots) / Math.max(tokens, 1))}%`;
}

function option(card, block, i) {
  const made = piece(block, block.tokens);
  made.id = `block-${card.id}-${i}`;
  made.setAttribute("role", "option");
  made.setAttribute("aria-label", made.title);
  if (block.pinned) made.dataset.pinned = "";
  return made;
}

function piece(block, size) {
  const made = document.createElement("div");
  made.dataset.fate = block.fate;
  made.style.flexGrow = size;
  made.title = `turn ${block.turn}, ${block.kind}: ${number.format(block.tokens)} tokens in ${number.format(block.slots)} slots, ${block.fate}${block.pinned ? ", pinned" : ""}`;
  return made;
}

// ---- evidence

function steer(card, event) {
  const last = (card.detail?.blocks.length ?? 0) - 1;
  const to = { ArrowRight: card.chosen + 1, ArrowLeft: card.chosen - 1, Home: 0, End: last }[event.key];
  if (event.key === "Escape") DO.close(card);
  if (to === undefined || last < 0) return;
  event.preventDefault();
  choose(card, Math.max(0, Math.min(last, to)));
}

function choose(card, chosen) {
  const changed = card.chosen !== chosen;
  card.chosen = chosen;
  mark(card);
  if (chosen < 0) return;
  const block = card.detail.blocks[chosen];
  const pin = card.part('[data-do="pin"]');
  card.part(".evidence").hidden = false;
  card.part("h3").textContent = `Turn ${block.turn} · ${block.kind} · ${number.format(block.tokens)} tokens held in ${number.format(block.slots)} slots`;
  const unmeasured = block.fate === "compacted" && !card.detail.evidence.gate;
  const swatch = text("span", "");
  swatch.className = "swatch";
  swatch.dataset.fate = block.fate;
  card.part(".fate").replaceChildren(swatch, unmeasured ? UNMEASURED : SAID[block.fate]);
  pin.textContent = block.pinned ? "Unpin this turn" : "Pin this turn";
  const facts = card.detail.facts.filter((fact) => fact.turn === block.turn);
  card.part(".facts").replaceChildren(...facts.map(fact));
  if (changed) read(card, block);
}

function fact(found) {
  const made = text("li", `${found.fate}: ${found.kind} `);
  made.append(text("code", found.text));
  return made;
}

async function read(card, block) {
  const place = card.part("pre");
  const asked = ++card.asked;
  let shows;
  place.textContent = "…";
  try {
    const answer = await call(at(card.id, `/turns/${block.turn}`));
    shows = spoken(await answer.json(), block.kind);
  } catch (error) {
    shows = why(error);
  }
  if (asked !== card.asked) return; // another block was chosen meanwhile
  const more = shows.length - MOST_SHOWN;
  place.textContent = more > 0 ? `${shows.slice(0, MOST_SHOWN)}\n… ${number.format(more)} more characters` : shows;
  place.scrollTop = 0;
}

function spoken(turn, kind) {
  if (kind === "reasoning") return turn.reasoning;
  return [turn.text, ...turn.calls.map((made) => `${made.name} ${made.arguments}`)].filter(Boolean).join("\n\n");
}

function mark(card) {
  const raw = card.part(".raw");
  [...raw.children].forEach((block, i) => block.setAttribute("aria-selected", i === card.chosen));
  [...card.part(".held").children].forEach((block, i) => block.toggleAttribute("data-selected", i === card.chosen));
  const chosen = raw.children[card.chosen];
  chosen ? raw.setAttribute("aria-activedescendant", chosen.id) : raw.removeAttribute("aria-activedescendant");
}

// ---- what buttons do

async function act(card, during, path, options, told) {
  const buttons = card.root.querySelectorAll("button:not([data-do=close])");
  card.working = true;
  buttons.forEach((button) => (button.disabled = true));
  tell(card, during, false);
  try {
    tell(card, await told(await call(path, options)), false);
  } catch (error) {
    card.waits = false;
    tell(card, why(error), true);
  }
  card.working = false;
  buttons.forEach((button) => (button.disabled = false));
  if (card.row) renew(card, card.row);
}

function tell(card, message, bad) {
  const place = card.part(".told");
  place.textContent = message;
  place.classList.toggle("bad", bad);
}

function calm(button) {
  delete button.dataset.sure;
  button.textContent = "Delete";
}

async function changed(card, answer, message) {
  const row = await answer.json();
  renew(card, row);
  return message(row);
}

const DO = {
  wake: (card) => load(card),
  compact: async (card) => {
    card.waits = true;
    await act(card, waiting(card), at(card.id, "/compact"), { method: "POST" }, (answer) => {
      card.waits = false;
      return changed(card, answer, (row) => `Compacted: ${number.format(row.tokens)} tokens in ${number.format(row.slots)} slots.`);
    });
    card.waits = false;
  },
  undo: (card) =>
    act(card, "Undoing…", at(card.id, "/undo"), { method: "POST" }, (answer) =>
      changed(card, answer, (row) => `Taken back: ${number.format(row.slots)} slots held.`),
    ),
  pin: (card) => {
    const { turn, pinned } = card.detail.blocks[card.chosen];
    const method = pinned ? "DELETE" : "PUT";
    const told = pinned ? `Turn ${turn} is no longer pinned.` : `Turn ${turn} stays word for word from now on.`;
    return act(card, "…", at(card.id, `/pins/${turn}`), { method }, (answer) => changed(card, answer, () => told));
  },
  export: (card) =>
    act(card, "Exporting…", at(card.id, "/export"), {}, async (answer) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await answer.blob());
      link.download = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") ?? "")?.[1] ?? "session.holdfast";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      return "Exported.";
    }),
  delete: (card) => {
    const button = card.part('[data-do="delete"]');
    if (button.dataset.sure === undefined) {
      button.dataset.sure = "";
      button.textContent = "Delete for good?";
      button.addEventListener("blur", () => calm(button), { once: true });
      return;
    }
    calm(button);
    return act(card, "Deleting…", at(card.id), { method: "DELETE" }, () => "Deleted.");
  },
  close: (card) => {
    card.asked++;
    choose(card, -1);
    card.part(".evidence").hidden = true;
    card.part(".raw").focus();
  },
};
