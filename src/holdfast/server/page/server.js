// What the page asks of the server. A key travels in a header only, never in an address.

export const KEY = "holdfast-key";

/** An answer that is an error; its message is the server's. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  throw new Refused(answer.status, told?.error?.message ?? `the server answered ${answer.status}`);
}

/** What a user is told of a call that failed. */
export const why = (error) => (error instanceof Refused ? error.message : "the server cannot be reached");

export const at = (id, rest = "") => `holdfast/sessions/${encodeURIComponent(id)}${rest}`;

/** What the server tells, whenever it changed: { rows, locked }. `heard` is called at every sign of life. */
export async function* lists(signal, heard) {
  const answer = await call("holdfast/events", { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let locked = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (event.startsWith("event: locked")) {
        locked = true;
      } else if (event.startsWith("data: ")) {
        yield { rows: JSON.parse(event.slice(6)), locked };
        locked = false;
      }
    }
  }
}
