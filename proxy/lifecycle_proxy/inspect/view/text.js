// Texts, tables and lists. Nothing that was recorded becomes markup: textContent only.

export const at = id => document.getElementById(id);

export function el(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export const ms = value => value === null || value === undefined ? "–" : value.toFixed(value < 100 ? 1 : 0) + " ms";
export const bytes = value => value < 1024 ? value + " B" : value < 1048576 ? (value / 1024).toFixed(1) + " KiB" : (value / 1048576).toFixed(1) + " MiB";
// What does not print, or turns the direction of text, is shown by its number.
const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]/gu;
export const visible = text => text.replace(HIDDEN, c => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
export const oneLine = text => visible(text.replace(/[\t\r\n]/g, c => ({"\t": "\\t", "\r": "\\r", "\n": "\\n"})[c]));

export function row(cells, numbers) {
  const tr = el("tr");
  cells.forEach((cell, i) => tr.append(el("td", numbers.includes(i) ? "n" : "", cell)));
  tr.setAttribute("role", "option");
  return tr;
}

// A list in which one row can be reached by Tab, and the others from there with the arrows.
export function walkable(body, pick) {
  const choose = tr => { pick([...body.children].indexOf(tr)); tr.focus(); };
  body.addEventListener("click", event => { const tr = event.target.closest("tr"); if (tr) choose(tr); });
  body.addEventListener("keydown", event => {
    const tr = event.target.closest("tr");
    const to = {ArrowDown: tr.nextElementSibling, ArrowUp: tr.previousElementSibling,
      Home: body.firstElementChild, End: body.lastElementChild, Enter: tr, " ": tr}[event.key];
    if (to) { event.preventDefault(); choose(to); }
  });
}

export function mark(body, index) {
  for (const tr of body.querySelectorAll('[aria-selected="true"]')) { tr.setAttribute("aria-selected", "false"); tr.tabIndex = -1; }
  const tr = body.children[index] || body.firstElementChild;
  if (!tr) return null;
  tr.tabIndex = 0;
  if (index >= 0) tr.setAttribute("aria-selected", "true");
  return tr;
}

