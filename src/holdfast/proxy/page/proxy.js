// The proxy's page: its counts and its conversations, asked for every two seconds. Everything enters as text.

import { number, pairs, text } from "./words.js";

const PAUSE = 2000; // ms between two looks
const WIRES = { openai_chat: "OpenAI chat", anthropic: "Anthropic", openai_responses: "OpenAI Responses", gemini: "Gemini" };
const find = (id) => document.getElementById(id);

async function look() {
  try {
    const answer = await fetch("/holdfast/proxy", { cache: "no-store" });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    show(await answer.json());
    state("live", "Live");
  } catch (error) {
    state("broken", error instanceof TypeError ? "Not live: the proxy cannot be reached" : `Not live: ${error.message}`);
  }
  setTimeout(look, PAUSE);
}

function state(kind, words) {
  find("state").dataset.state = kind;
  find("state").textContent = words;
}

function show(status) {
  const sum = (name) => status.keys.reduce((total, row) => total + row[name], 0);
  const [before, after] = [sum("tokens_before"), sum("tokens_after")];
  const saved = before ? ` (${((100 * (before - after)) / before).toFixed(0)} %)` : "";
  find("totals").textContent = `${number.format(status.tokens_saved)} tokens saved of ${number.format(before)}${saved}${status.dry_run ? ", had this not been a dry run" : ""}`;
  pairs(find("counts"), [
    ["Requests with a history", number.format(status.requests)],
    ["Compactions", number.format(status.compactions)],
    ["Passed on unread", number.format(status.passed_on)],
    ["Failed, sent as they came", number.format(status.failures)],
    ["Refused upstream, sent again", number.format(status.refused)],
    ["Above the budget", number.format(status.over)],
    ["Summaries, sent as they came", number.format(status.summaries)],
    ["Money (estimate)", money(status.money, status.money_passing)],
  ]);
  find("counts").hidden = status.requests + status.passed_on === 0;
  find("empty").hidden = status.conversations.length > 0;
  find("conversations").replaceChildren(...status.conversations.map(card));
}

function card(row) {
  const made = find("conversation").content.firstElementChild.cloneNode(true);
  const part = (selector) => made.querySelector(selector);
  const when = new Date(row.updated * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  part("h2").textContent = row.title || `Conversation ${row.id}`;
  const key = row.key === "none" ? "no key" : `key ${row.key.slice(0, 6)}…`;
  part(".hint").textContent = `${WIRES[row.wire] ?? row.wire} · ${key} · last request ${when}`;
  const share = (100 * row.tokens_after) / Math.max(row.tokens_before, 1);
  label(part(".came"), "Came", row.tokens_before);
  label(part(".sent"), "Sent", row.tokens_after);
  part(".sent-bar").style.width = `${Math.min(100, share)}%`;
  pairs(part(".numbers"), [
    ["Turns", number.format(row.turns)],
    ["Requests", number.format(row.requests)],
    ["Compactions", number.format(row.compactions)],
    ["Sent of what came", row.tokens_before ? `${share.toFixed(0)} %` : "–"],
    ["Money (estimate)", money(row.money, row.money_passing)],
  ]);
  return made;
}

function money(sent, passing) {
  if (!passing) return "–";
  const saved = passing - sent;
  return `$${Math.abs(saved).toFixed(4)} ${saved < 0 ? "more" : "less"} than $${passing.toFixed(4)}`;
}

function label(place, name, tokens) {
  place.replaceChildren(`${name} `, text("b", `${number.format(tokens)} tokens`));
}

find("openai-url").textContent = `${location.origin}/v1`;
find("anthropic-url").textContent = location.origin;
look();
