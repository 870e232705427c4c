// The sawtooth, as an inline drawing.

import { number, short } from "./words.js";

const W = 400, H = 190, LEFT = 46, RIGHT = 10, TOP = 8, BOTTOM = 34;

/** Draw the tokens said and the slots held, over turns, into a figure; over tokens where blocks go inside an answer. */
export function sawtooth(figure, answers, curve = []) {
  figure.querySelector("svg")?.remove();
  const rounds = curve.length ? curve.map(drop) : answers;
  figure.hidden = rounds.length === 0;
  if (!rounds.length) return;
  const last = Math.max(...rounds.map((round) => round.turn), 1);
  const most = Math.max(...rounds.map((round) => Math.max(round.tokens, round.slots)), 1);
  const step = nice(most / 3);
  const top = step * Math.ceil(most / step);
  const x = (turn) => LEFT + ((W - LEFT - RIGHT) * turn) / last;
  const y = (size) => H - BOTTOM - ((H - TOP - BOTTOM) * size) / top;
  const start = { turn: 0, tokens: 0, slots: 0 };
  const line = (what) => [start, ...rounds].map((round) => `${x(round.turn).toFixed(1)},${y(round[what]).toFixed(1)}`);
  const held = line("slots");
  const drawing = shape("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": summary(rounds, curve.length ? "tokens" : "turns") });
  drawing.append(
    ...axes(x, y, last, step, top, curve.length ? "token" : "turn"),
    shape("polygon", { class: "held-area", points: [...held, `${x(rounds.at(-1).turn)},${y(0)}`].join(" ") }),
    shape("polyline", { class: "said-line", points: line("tokens").join(" ") }),
    shape("polyline", { class: "held-line", points: held.join(" ") }),
    ...rounds
      .filter((round) => round.compacted)
      .map((round) => shape("circle", { class: "compaction", r: 3.5, cx: x(round.turn), cy: y(round.slots) })),
  );
  figure.append(drawing);
}

/** A point of the curve as a round: it stands at its token, and one below the point before it is an eviction. */
function drop([tokens, slots], at, curve) {
  const compacted = at > 0 && curve[at - 1][0] === tokens && slots < curve[at - 1][1];
  return { turn: tokens, tokens, slots, compacted };
}

function axes(x, y, last, step, top, what) {
  const made = [];
  for (let size = 0; size <= top; size += step) {
    made.push(shape("line", { class: "grid", x1: LEFT, x2: W - RIGHT, y1: y(size), y2: y(size) }));
    made.push(word(LEFT - 6, y(size) + 4, short.format(size), "end"));
  }
  const every = Math.max(1, nice(last / 5));
  for (let turn = 0; turn <= last; turn += every) made.push(word(x(turn), H - BOTTOM + 15, short.format(turn), "middle"));
  made.push(word((LEFT + W - RIGHT) / 2, H - 4, what, "middle"));
  return made;
}

function summary(rounds, what) {
  const { turn, tokens, slots } = rounds.at(-1);
  const times = rounds.filter((round) => round.compacted).length;
  return `Over ${turn} ${what} ${number.format(tokens)} tokens were said; ${number.format(slots)} slots are held after ${times} compactions; at most ${number.format(Math.max(...rounds.map((round) => round.slots)))} were held.`;
}

/** The least of 1, 2, 5, 10, … that is not below a size. */
function nice(size) {
  const power = 10 ** Math.floor(Math.log10(Math.max(size, 1)));
  return power * ([1, 2, 5].find((times) => times * power >= size) ?? 10);
}

function word(x, y, content, anchor) {
  const made = shape("text", { x, y, "text-anchor": anchor });
  made.textContent = content;
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
