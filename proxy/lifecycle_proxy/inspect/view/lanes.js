// <stream-lanes>: a lane for each stream, drawn on one canvas: only the lanes that are to be seen.
//
// A lane is a row's time: thin until the first byte, then as dense as its chunks come; a bar for each
// tool from running to completed. Red: it failed. Hatched: its end was made up by the proxy. Dashed:
// the client runs it. Below: reasoning, and gaps without a chunk. Above: heartbeats.
import {oneLine} from "./text.js";

export const LANE = 26;
const NAME = 250, GAP_MS = 250, SLOT_MS = 250;

class StreamLanes extends HTMLElement {
  rows = [];
  selected = "";
  pick = () => {};

  connectedCallback() {
    this.canvas = document.createElement("canvas");
    this.spacer = document.createElement("div");
    this.append(this.canvas, this.spacer);
    this.tabIndex = 0;
    this.setAttribute("role", "listbox");
    this.addEventListener("scroll", () => this.draw());
    this.addEventListener("click", event => {
      const found = this.rows[Math.floor((event.clientY - this.getBoundingClientRect().top + this.scrollTop) / LANE)];
      if (found) this.pick(found.i);
    });
    this.addEventListener("keydown", event => {
      const now = this.rows.findIndex(one => one.i === this.selected);
      const to = {ArrowDown: now + 1, ArrowUp: Math.max(0, now - 1), Home: 0, End: this.rows.length - 1}[event.key];
      if (to === undefined || !this.rows[to]) return;
      event.preventDefault();
      this.pick(this.rows[to].i);
      if (to * LANE < this.scrollTop) this.scrollTop = to * LANE;
      if ((to + 1) * LANE > this.scrollTop + this.clientHeight) this.scrollTop = (to + 1) * LANE - this.clientHeight;
    });
    new ResizeObserver(() => this.draw()).observe(this);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  show(rows, from, until, now) {
    Object.assign(this, {rows, from, until, now});
    this.spacer.style.height = rows.length * LANE + "px";
    this.style.height = LANE * Math.min(12, Math.max(3, rows.length)) + 8 + "px";
    this.draw();
  }

  draw() {
    const {canvas, clientWidth: width, clientHeight: height} = this;
    const scale = devicePixelRatio || 1;
    if (!width || !this.until) return;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.width = width + "px";
      canvas.style.height = height + "px";
    }
    const style = getComputedStyle(this), colour = name => style.getPropertyValue("--" + name);
    const colours = Object.fromEntries(["ink", "soft", "line", "pick", "text", "ours", "bad", "theirs", "card", "thought", "call"].map(name => [name, colour(name)]));
    const on = canvas.getContext("2d");
    on.setTransform(scale, 0, 0, scale, 0, 0);
    on.clearRect(0, 0, width, height);
    on.font = "12px system-ui, sans-serif";
    const first = Math.floor(this.scrollTop / LANE), last = Math.min(this.rows.length, Math.ceil((this.scrollTop + height) / LANE));
    for (let at = first; at < last; at++) this.lane(on, this.rows[at], at * LANE - this.scrollTop, width, colours);
  }

  lane(on, row, y, width, c) {
    const name = Math.min(NAME, width / 3), x = time => name + (width - name) * (time - this.from) / (this.until - this.from);
    if (row.i === this.selected) { on.fillStyle = c.pick; on.fillRect(0, y, width, LANE); }
    on.fillStyle = c.line;
    on.fillRect(0, y + LANE - 1, width, 1);
    const end = row.d === null ? this.now : row.t + row.d;
    if (end >= this.from) this.bars(on, row, y, x, end, c, [name, width]);
    on.fillStyle = row.bad ? c.bad : row.d === null ? c.ink : c.soft;
    on.fillText(fitted(on, oneLine(row.m || row.r) + " " + oneLine(row.w), name - 8), 2, y + 17);
  }

  bars(on, row, y, x, end, c, [left, right]) {
    on.save();
    on.beginPath();
    on.rect(left, y, right - left, LANE);
    on.clip();
    const start = x(row.t), stop = Math.max(start + 2, x(end));
    on.fillStyle = row.bad ? c.bad : c.theirs;
    on.fillRect(start, y + LANE / 2, stop - start, 1);
    const begun = row.f === null ? end : row.t + row.f;
    on.fillStyle = c.text;
    if (row.f !== null && !row.slots.size) { on.globalAlpha = .35; on.fillRect(x(begun), y + 9, Math.max(1, stop - x(begun)), 8); on.globalAlpha = 1; }
    for (const [slot, chunks] of row.slots) {
      const tall = Math.min(LANE - 8, 3 + 4 * Math.log2(1 + chunks));
      on.fillRect(x(slot), y + (LANE - tall) / 2, Math.max(1, x(slot + SLOT_MS) - x(slot) - .5), tall);
    }
    for (const [kind, from, to] of row.marks) this.mark(on, kind, x(row.t + from), x(row.t + to), y, c);
    // It goes on now, and is known when the next chunk comes.
    if (row.d === null && row.at && end - row.at >= SLOT_MS + GAP_MS) this.mark(on, "gap", x(row.at + SLOT_MS), stop, y, c);
    const tracks = tracked(row.k), tall = Math.floor((LANE - 8) / Math.max(1, ...tracks.map(one => one + 1)));
    row.k.forEach((tool, at) => this.tool(on, row, tool, y + 4 + tracks[at] * tall, tall - 1, x, c, end));
    on.restore();
  }

  mark(on, kind, from, to, y, c) {
    const wide = Math.max(2, to - from);
    on.fillStyle = {gap: c.bad, think: c.thought, beat: c.call}[kind];
    if (kind === "beat") on.fillRect(from - 2, y + 1, 4, 4); else on.fillRect(from, y + LANE - 5, wide, 3);
  }

  tool(on, row, [name, , start, stop, how], top, tall, x, c, end) {
    const from = x(row.t + start), to = Math.max(from + 3, x(stop === null ? end : row.t + stop));
    const isLent = stop === null && row.d !== null;
    on.fillStyle = on.strokeStyle = how === "failed" ? c.bad : c.ours;
    if (isLent) {
      on.setLineDash([4, 3]);
      on.strokeRect(from + .5, top + .5, Math.max(12, to - from), tall);
      on.setLineDash([]);
    } else {
      on.globalAlpha = stop === null ? .7 : 1;
      on.fillRect(from, top, to - from, tall);
      on.globalAlpha = 1;
      if (how === "cut" || how === "made up") {
        on.strokeStyle = c.card;
        on.save();
        on.beginPath();
        on.rect(from, top, to - from, tall);
        on.clip();
        on.beginPath();
        for (let at = from - tall; at < to; at += 6) { on.moveTo(at, top + tall); on.lineTo(at + tall, top); }
        on.stroke();
        on.restore();
      }
      on.fillStyle = c.card;
      if (to - from > 40 && tall > 12) on.fillText(fitted(on, oneLine(name), to - from - 8), from + 4, top + tall - 4);
    }
  }
}

// Tools that run at the same time are drawn one above the other: at most three.
function tracked(tools) {
  const ends = [];
  return tools.map(([, , start, stop]) => {
    let at = ends.findIndex(end => end <= start);
    if (at < 0) at = Math.min(ends.length, 2);
    ends[at] = stop === null ? Infinity : stop;
    return at;
  });
}

function fitted(on, text, width) {
  let cut = text.slice(0, 80);
  while (cut && on.measureText(cut).width > width) cut = cut.slice(0, -1 - (cut.length >> 3));
  return cut;
}

customElements.define("stream-lanes", StreamLanes);
