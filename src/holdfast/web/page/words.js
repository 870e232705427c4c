// Numbers and text of the page.

export const number = new Intl.NumberFormat("en");
export const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** An element with text in it: how everything that comes from a session enters the document. */
export function text(name, content) {
  const made = document.createElement(name);
  made.textContent = content;
  return made;
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(count, 1)) / 3));
  return `${(count / 1000 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

/** Fill a list of names and values. */
export function pairs(list, entries) {
  list.replaceChildren(
    ...entries.map(([name, value]) => {
      const pair = document.createElement("div");
      pair.append(text("dt", name), text("dd", value));
      return pair;
    }),
  );
}
