// One exchange: facts, a waterfall with a bar for each tool, the text at each moment, frames, headers.
import {axis, lane, percent, scale, steady, toolLane} from "./bars.js";
import {at, bytes, el, mark, ms, oneLine, row, visible, walkable} from "./text.js";

export const MS = 0, SIZE = 1, OURS = 2, KIND = 3, WORDS = 4, TEXT = 5, THOUGHT = 6, RAW = 7;
const KINDS = {text: "text", thought: "thought", call: "call", result: "result", error: "error", bytes: "bytes"};
let exchange, side, frames, cursor = -1, chosen = -1;

const colour = frame => "k-" + (frame[OURS] ? "ours" : KINDS[frame[KIND]] || "other");
// Draw an exchange; the frame that was looked at stays, if it is the same exchange that has grown.
export function showExchange(shown) {
  const kept = exchange && exchange.id === shown.id ? chosen : -1;
  exchange = shown;
  at("exchange").hidden = false;
  at("request").textContent = oneLine(`${exchange.request.method} ${exchange.request.target}`);
  at("asked").textContent = oneLine(exchange.line);
  const span = Math.max(exchange.end * 1.01, 0.001); // the last frame is to be seen, too
  scale.span = exchange.complete ? span : steady(span);
  drawHeads();
  draw();
  if (kept >= 0) pick(kept);
}

function draw() {
  side = exchange[document.querySelector('input[name="side"]:checked').value];
  frames = side.frames;
  cursor = -2; // what was drawn is another's
  chosen = -1;
  drawFacts();
  drawNotes();
  drawLanes();
  drawFrames();
  at("slider").max = Math.max(0, frames.length - 1);
  at("slider").disabled = !frames.length;
  look(frames.length - 1);
}

function drawFacts() {
  const ours = frames.filter(frame => frame[OURS]).length;
  const facts = [["status", `${side.status || "none"} ${oneLine(side.reason)}`], ["headers", ms(side.ms)],
    ["events", `${frames.length + side.more}, ${ours} added by the proxy`], ["size", bytes(side.size)],
    ["end", side.end ? `${side.end} at ${ms(side.endMs)}` : "not recorded"], ["ended", oneLine(exchange.ended) || "–"],
    ["route", oneLine(exchange.route)], ["id", oneLine(exchange.id)], ["began", oneLine(exchange.ts)]];
  at("facts").replaceChildren(...facts.map(([name, value]) => {
    const fact = el("span", "soft", name + " ");
    fact.append(el("b", "", value));
    return fact;
  }));
}

function drawNotes() {
  const notes = [];
  if (exchange.error) notes.push("Error: " + exchange.error);
  if (exchange.omitted) notes.push("Not recorded: " + exchange.omitted);
  if (!exchange.complete) notes.push("It has no end yet, or the recording broke off. What may yet become a secret is not shown.");
  if (exchange.cut) notes.push("This exchange is too large for a page. The bytes and texts at its end are cut off; sizes and times are right.");
  if (side.more) notes.push(`${side.more} more frames are not in this page.`);
  if (side.unread) notes.push(`Its last ${bytes(side.unread)} have more frames than a page reads.`);
  if (exchange.moreBars) notes.push(`${exchange.moreBars} more tool calls are not drawn.`);
  at("notes").replaceChildren(...notes.map(note => el("div", "card note", oneLine(note))));
}

function wait(from, to) {
  const bar = el("div", "wait");
  bar.style.left = percent(from);
  bar.style.width = percent(to - from);
  return bar;
}

function tick(frame) {
  const made = el("div", "tick " + colour(frame));
  made.style.left = percent(frame[MS]);
  return made;
}

function growth() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const total = frames.reduce((sum, frame) => sum + frame[TEXT].length, 0);
  svg.setAttribute("class", "grow");
  svg.setAttribute("viewBox", "0 0 1000 100");
  svg.setAttribute("preserveAspectRatio", "none");
  let line = "M0 100", sum = 0;
  for (const frame of frames) {
    if (!frame[TEXT]) continue;
    const x = 1000 * frame[MS] / scale.span;
    line += `L${x} ${100 - 100 * sum / total}`;
    sum += frame[TEXT].length;
    line += `L${x} ${100 - 100 * sum / total}`;
  }
  path.setAttribute("d", line + (total ? "L1000 0" : "") + "L1000 100Z");
  svg.append(path);
  return total ? svg : null;
}

function drawLanes() {
  const theirs = frames.filter(frame => !frame[OURS]), ours = frames.filter(frame => frame[OURS]);
  const rows = [axis(at("lanes").clientWidth), lane("from the upstream", wait(0, side.ms), ...theirs.map(tick))];
  if (ours.length) rows.push(lane("added by the proxy", ...ours.map(tick)));
  for (const bar of exchange.bars) rows.push(toolLane(bar, exchange.end));
  const curve = growth();
  if (curve) rows.push(lane("text", curve));
  at("lanes").replaceChildren(...rows.flat());
  const used = new Set(frames.map(colour));
  const names = [["k-text", "text"], ["k-thought", "thought"], ["k-call", "tool call"], ["k-result", "result"],
    ["k-other", "other"], ["k-error", "error"], ["k-bytes", "not JSON"], ["k-ours", "added by the proxy"]];
  at("legend").replaceChildren(...names.filter(([key]) => used.has(key)).map(([key, name]) => {
    const item = el("span");
    item.append(el("i", key), name);
    return item;
  }));
}

function drawFrames() {
  const rows = frames.map((frame, i) => {
    const tr = row([String(i + 1), frame[MS].toFixed(1), String(frame[SIZE]), oneLine(frame[WORDS]), ""], [0, 1, 2]);
    tr.tabIndex = -1;
    if (frame[OURS]) tr.classList.add("ours");
    tr.children[3].className = "words";
    tr.children[3].title = oneLine(frame[WORDS]);
    tr.children[4].className = "fall";
    tr.children[4].append(wait(i ? frames[i - 1][MS] : 0, frame[MS]), tick(frame));
    return tr;
  });
  at("frames").replaceChildren(...rows);
  mark(at("frames"), -1);
}

// The text until a frame, and the cursor there.
function look(index) {
  if (index === cursor) return;
  cursor = index;
  const frame = frames[index];
  at("slider").value = Math.max(0, index);
  const left = percent(frame ? frame[MS] : 0);
  for (const line of document.querySelectorAll(".cursor")) line.style.left = left;
  at("until").textContent = frame ? `Text until ${ms(frame[MS])}, frame ${index + 1} of ${frames.length}` : "Text";
  at("slider").setAttribute("aria-valuetext", frame ? `frame ${index + 1}, ${ms(frame[MS])}: ${oneLine(frame[WORDS])}` : "");
  at("text").replaceChildren(...grown(index));
  at("text").scrollTop = at("text").scrollHeight;
  if (chosen < 0 || !frame) showRaw(index);
}

function grown(index) {
  const runs = [];
  const add = (kind, text) => {
    if (!text) return;
    const last = runs[runs.length - 1];
    if (last && last.kind === kind) last.text += text; else runs.push({kind, text});
  };
  frames.slice(0, index + 1).forEach((frame, i) => {
    const fresh = i === index ? " new" : "";
    add("thought" + fresh, frame[THOUGHT]);
    add("text" + fresh, frame[TEXT]);
  });
  return runs.length ? runs.map(({kind, text}) => el("span", kind, visible(text))) : [el("span", "soft", "no text yet")];
}

function pick(index) {
  chosen = index;
  look(index);
  showRaw(index);
  const tr = mark(at("frames"), index);
  const box = tr && tr.closest(".frames-box");
  if (box && (tr.offsetTop < box.scrollTop + 24 || tr.offsetTop > box.scrollTop + box.clientHeight - 24)) box.scrollTop = tr.offsetTop - box.clientHeight / 2;
}

function showRaw(index) {
  const frame = frames[index], isClient = side === exchange.client;
  at("which").textContent = frame ? `Frame ${index + 1} at ${ms(frame[MS])}, ${bytes(frame[SIZE])}${frame[OURS] ? ", added by the proxy" : ""}: decoded` : "Frame";
  const other = frame && nearestTwin(frame, (isClient ? exchange.upstream : exchange.client).frames);
  raw(at(isClient ? "raw-client" : "raw-upstream"), frame, "");
  raw(at(isClient ? "raw-upstream" : "raw-client"), other, frame ? frame[OURS] ? "nothing: the proxy added this frame" : "nothing in this form" : "");
  at("decoded").textContent = frame ? decoded(exchange.raws[frame[RAW]]) : "";
}

// The same bytes on the other side: those nearest in time.
const nearestTwin = (frame, others) => others.filter(one => one[RAW] === frame[RAW])
  .reduce((best, one) => !best || Math.abs(one[MS] - frame[MS]) < Math.abs(best[MS] - frame[MS]) ? one : best, null);

function raw(box, frame, nothing) {
  box.replaceChildren();
  if (!frame) { box.append(el("span", "soft", nothing)); return; }
  const text = exchange.raws[frame[RAW]];
  for (const part of text.split(/(\r\n|\r|\n)/)) {
    if (/^[\r\n]/.test(part)) box.append(el("span", "end", oneLine(part)), "\n");
    else box.append(visible(part));
  }
  if (exchange.cut && frame[SIZE] && text.length < frame[SIZE] / 4) box.append(el("span", "bad", "… cut off in this page"));
}

function decoded(text) {
  const lines = text.split(/\r\n|\r|\n/).filter(line => line.startsWith("data:")).map(line => line.slice(5));
  try { return visible(JSON.stringify(JSON.parse(lines.length ? lines.join("\n") : text), null, 2)); } catch { return "not JSON"; }
}

function pairs(headers) {
  const table = el("table", "mono"), body = el("tbody");
  for (const [name, value] of headers) {
    const tr = el("tr");
    tr.append(el("td", "", oneLine(name)), el("td", "", oneLine(value)));
    body.append(tr);
  }
  table.append(body);
  return table;
}

function section(title, ...things) {
  const box = el("details");
  box.append(el("summary", "", oneLine(title)), ...things);
  return box;
}

function asked(request) {
  if (request.same) return el("p", "soft", "the body is the client's");
  if (request.body === null) return el("p", "soft", "body not recorded: " + oneLine(request.omitted));
  let text = request.body;
  try { text = JSON.stringify(JSON.parse(text), null, 2); } catch { /* it is shown as it is */ }
  return el("pre", "", visible(text));
}

function drawHeads() {
  const {request, forwarded, client, upstream} = exchange;
  const parts = [section(`Request of the client: ${request.method} ${request.target}, ${bytes(request.size)}`, pairs(request.headers), asked(request))];
  if (forwarded) parts.push(section(`Request to the upstream: ${forwarded.method} ${forwarded.target}, ${bytes(forwarded.size)}`, pairs(forwarded.headers), asked(forwarded)));
  if (upstream.status) parts.push(section(`Headers from the upstream: ${upstream.status} ${upstream.reason}, ${ms(upstream.ms)}`, pairs(upstream.headers)));
  if (client.status) parts.push(section(`Headers to the client: ${client.status} ${client.reason}, ${ms(client.ms)}`, pairs(client.headers)));
  at("heads").replaceChildren(...parts);
}

function nearest(event) {
  const box = at("lanes").querySelector(".lane").getBoundingClientRect();
  const time = scale.span * (event.clientX - box.left) / box.width;
  let best = -1;
  frames.forEach((frame, i) => { if (frame[MS] <= time) best = i; });
  return best;
}

at("lanes").addEventListener("mousemove", event => { if (event.target.closest(".lane")) look(nearest(event)); });
at("lanes").addEventListener("mouseleave", () => { if (chosen >= 0) look(chosen); });
at("lanes").addEventListener("click", event => { if (event.target.closest(".lane") && frames.length) pick(Math.max(0, nearest(event))); });
at("slider").addEventListener("input", event => pick(Number(event.target.value)));
for (const radio of document.querySelectorAll('input[name="side"]')) radio.addEventListener("change", draw);
walkable(at("frames"), pick);
addEventListener("resize", () => {
  if (at("exchange").hidden) return;
  const here = cursor;
  cursor = -2;
  drawLanes();
  look(here);
});
document.addEventListener("keydown", event => {
  const busy = event.target.closest("input, [role=option], pre, .grown, summary");
  const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (busy && !event.target.closest("[role=option]") || !step || !exchange || !frames.length) return;
  event.preventDefault();
  pick(Math.min(frames.length - 1, Math.max(0, cursor + step)));
});
