// The rows of a waterfall: an axis, a lane for each thing, a bar for each tool.
import {el, ms, oneLine} from "./text.js";

export const scale = {span: 1}; // milliseconds that a lane stands for
// Where motion is to be reduced, what grows has a scale that seldom changes, and a clock of seconds.
export const still = matchMedia("(prefers-reduced-motion: reduce)");
export const steady = span => still.matches ? 5000 * 2 ** Math.ceil(Math.log2(Math.max(1, span / 5000))) : span;
export const ticked = time => still.matches ? Math.floor(time / 1000) * 1000 : time;
export const percent = value => Math.min(100, Math.max(0, 100 * value / scale.span)) + "%";

export function lane(name, ...things) {
  const box = el("div", "lane");
  box.append(...things, el("div", "cursor"));
  const label = el("div", "lane-name", oneLine(name));
  label.title = oneLine(name);
  return [label, box];
}

function run(bar, end, open) {
  const box = el("div", "run" + (bar.stop === null ? " open" : "") + (bar.failed ? " failed" : ""));
  const stop = bar.stop === null ? end : bar.stop;
  box.style.left = percent(bar.start);
  box.style.width = percent(stop - bar.start);
  const took = bar.took === null ? stop - bar.start : bar.took;
  const words = [bar.stop === null ? open : ms(took), bar.failed ? "failed" : "", bar.reason];
  box.textContent = oneLine(words.filter(Boolean).join(" · "));
  box.title = oneLine(`${bar.tool} ${bar.label}`) + ` · ${ms(bar.start)} to ${ms(bar.stop)} · ` + box.textContent;
  return box;
}

export function toolLane(bar, end, open = "not completed") {
  const name = [bar.emoji, bar.tool, bar.label === bar.tool ? "" : bar.label].filter(Boolean).join(" ");
  return bar.start === null ? lane(`${name} (not in the stream)`) : lane(name, run(bar, end, open));
}

export function axis(width) {
  const box = el("div", "axis");
  const raw = scale.span / Math.max(1, width * 0.8 / 100), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= raw);
  for (let t = 0; t < scale.span - step * 0.4; t += step) {
    const label = el("span", "", step >= 1000 ? (t / 1000).toFixed(0) + " s" : +t.toFixed(3) + " ms");
    label.style.left = percent(t);
    box.append(label);
  }
  return [el("div"), box];
}
