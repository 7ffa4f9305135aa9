// The exchanges of a recording: it is in the page, or was opened in it.
import {OURS, showExchange} from "./exchange.js";
import {at, mark, oneLine, row, walkable} from "./text.js";

let shown = null; // the exchanges

function open(index) {
  const one = shown[index];
  if (!one) return;
  mark(at("list"), index);
  history.replaceState(null, "", "#" + encodeURIComponent(one.id)); // so that the address leads here again
  showExchange(one);
}

const linked = () => shown.findIndex(one => "#" + encodeURIComponent(one.id) === location.hash);

export function showRecording(data) {
  if (!shown) {
    walkable(at("list"), open);
    addEventListener("hashchange", () => { if (!at("recording").hidden && linked() >= 0) open(linked()); });
  }
  shown = data.exchanges;
  const count = shown.length;
  at("recording").hidden = false;
  at("summary").textContent = `${count} exchange${count === 1 ? "" : "s"}${data.more ? ` and ${data.more} more that are not in this page` : ""} · ${data.by}`;
  at("list").replaceChildren(...shown.map((one, i) => {
    const ours = one.client.frames.filter(frame => frame[OURS]).length;
    const total = one.client.frames.length + one.client.more;
    const tools = [...new Set(one.bars.map(bar => bar.tool))].join(", ");
    const tr = row([String(i + 1), oneLine(one.ts.slice(11, 19)), oneLine(one.line),
      String(one.client.status || "–"), oneLine(one.ended || (one.complete ? "–" : "incomplete")), String(Math.round(one.end)),
      ours ? `${total - ours} + ${ours}` : String(total), oneLine(tools)], [0, 3, 5, 6]);
    tr.children[2].title = oneLine(one.request.method + " " + one.request.target);
    if (one.bad) tr.classList.add("bad");
    tr.tabIndex = -1;
    return tr;
  }));
  open(Math.max(0, linked()));
}
