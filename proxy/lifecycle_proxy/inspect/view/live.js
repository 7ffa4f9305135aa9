// The exchanges of a running proxy, as they happen.
import {showExchange} from "./exchange.js";
import "./lanes.js";
import {at, el, mark, oneLine, row as tableRow, walkable} from "./text.js";

const KEY = "lifecycle-proxy key", SLOT_MS = 250, REDRAW_MS = 100, AGAIN_MS = 1000, GOOD = ["", "done", "eof"];
const rows = new Map();
let shift = 0, selected = "", isPaused = false, isDirty = true, shown = [];

const headers = () => sessionStorage.getItem(KEY) ? {Authorization: "Bearer " + sessionStorage.getItem(KEY)} : {};
const ask = path => fetch("/-/page/" + path, {headers: headers(), cache: "no-store"});

export function showLive() {
  at("live").hidden = false;
  at("lanes-of-all").pick = select;
  walkable(at("rows"), index => { if (shown[index]) select(shown[index].i); });
  for (const id of ["filter", "state"]) at(id).addEventListener("input", () => { isDirty = true; });
  at("pause").addEventListener("click", () => {
    isPaused = !isPaused;
    at("pause").setAttribute("aria-pressed", String(isPaused));
    at("pause").textContent = isPaused ? "Go on" : "Pause";
    isDirty = true;
  });
  at("key-form").addEventListener("submit", event => {
    event.preventDefault();
    sessionStorage.setItem(KEY, at("key").value.trim());
    at("key").value = "";
    at("key-form").hidden = true;
    follow();
  });
  addEventListener("hashchange", () => select(decodeURIComponent(location.hash.slice(1))));
  selected = decodeURIComponent(location.hash.slice(1));
  setInterval(() => { if (isDirty || anyOpen()) requestAnimationFrame(draw); }, REDRAW_MS);
  setInterval(again, AGAIN_MS);
  follow();
}

async function follow() {
  let answer;
  try { answer = await ask("changes"); } catch { answer = null; }
  if (answer && answer.status === 401) { at("key-form").hidden = false; at("key").focus(); say("a key is needed"); return; }
  if (!answer || !answer.ok) { say(answer ? `status ${answer.status}` : "the proxy does not answer"); setTimeout(follow, 2000); return; }
  rows.clear();
  say("");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let rest = "";;) {
      const {value, done} = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line) take(JSON.parse(line));
    }
  } catch { /* the connection broke: as its end */ }
  say("the proxy has ended the connection");
  setTimeout(follow, 1000);
}

const say = text => { at("connection").textContent = text; };
const now = () => Date.now() + shift;
const anyOpen = () => !isPaused && [...rows.values()].some(one => one.d === null);

function take(change) {
  if (change.now) shift = change.now - Date.now();
  for (const fresh of change.rows || []) {
    const old = rows.get(fresh.i) || {slots: new Map(), n: 0, at: 0, gapAt: 0};
    const came = fresh.n - old.n, slot = Math.floor(now() / SLOT_MS) * SLOT_MS;
    fresh.slots = old.slots;
    fresh.gapAt = old.gapAt;
    if (came > 0 && old.i) {
      if (slot - old.at > 2 * SLOT_MS && old.at) fresh.gapAt = old.at + SLOT_MS;
      fresh.slots.set(slot, (fresh.slots.get(slot) || 0) + came);
      if (fresh.slots.size > 400) fresh.slots.delete(fresh.slots.keys().next().value);
    }
    fresh.at = came > 0 ? slot : old.at;
    fresh.bad = Boolean(fresh.x) || fresh.s >= 400 || !GOOD.includes(fresh.e);
    rows.set(fresh.i, fresh);
  }
  for (const gone of change.gone || []) rows.delete(gone);
  isDirty = true;
}

function wanted(one) {
  const state = at("state").value, words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  if (state === "open" && one.d !== null || state === "bad" && !one.bad || state === "tools" && !one.k.length) return false;
  const text = [one.m, one.w, one.c, one.u, one.r, one.y, one.e || "open", one.x, ...one.k.map(tool => tool[0])].join(" ").toLowerCase();
  return words.every(word => text.includes(word));
}

function draw() {
  if (isPaused && !isDirty) return;
  isDirty = false;
  const all = [...rows.values()].sort((a, b) => b.t - a.t);
  if (!isPaused || !shown.length) shown = all.filter(wanted); else shown = shown.map(one => rows.get(one.i) || one).filter(wanted);
  const open = all.filter(one => one.d === null).length;
  at("summary").textContent = `${open} open, ${all.length - open} finished${shown.length < all.length ? `, ${shown.length} shown` : ""}`;
  at("none").hidden = shown.length > 0;
  const until = now(), from = Math.max(until - 60000, Math.min(until - 10000, ...shown.filter(one => one.d === null).map(one => one.t)));
  at("lanes-of-all").selected = selected;
  if (!isPaused) at("lanes-of-all").show(shown, from, until); else at("lanes-of-all").draw();
  drawRows();
  drawTools(all);
}

const seconds = value => value === null ? "" : value < 10000 ? (value / 1000).toFixed(2) : (value / 1000).toFixed(0);

function drawRows() {
  const body = at("rows"), top = shown.slice(0, 100);
  top.forEach((one, index) => {
    const tools = [...new Set(one.k.map(tool => tool[0]))].join(", ");
    const cells = [new Date(one.t).toLocaleTimeString([], {hour12: false}), one.c, one.m || one.r, one.u, one.w, one.d === null ? "open" : one.e || "–",
      String(one.s || ""), tools, seconds(one.f), seconds(one.d === null ? Math.max(0, now() - one.t) : one.d)].map(oneLine);
    let tr = body.children[index];
    if (!tr) { tr = tableRow(cells, [6, 8, 9]); tr.tabIndex = index ? -1 : 0; body.append(tr); }
    else cells.forEach((cell, i) => { if (tr.children[i].textContent !== cell) tr.children[i].textContent = cell; });
    const kind = one.bad ? "bad" : one.d === null ? "running" : "";
    if (tr.className !== kind) tr.className = kind;
    const is = String(one.i === selected);
    if (tr.getAttribute("aria-selected") !== is) tr.setAttribute("aria-selected", is);
  });
  while (body.children.length > top.length) body.lastElementChild.remove();
}

function drawTools(all) {
  const tools = new Map();
  for (const one of all) for (const [name, , start, stop, how] of one.k) {
    const sum = tools.get(name) || {calls: 0, failed: 0, took: []};
    tools.set(name, sum);
    sum.calls++;
    if (how === "failed") sum.failed++;
    if (stop !== null) sum.took.push(stop - start);
  }
  const part = (took, share) => took.length ? seconds(took.sort((a, b) => a - b)[Math.min(took.length - 1, Math.floor(took.length * share))]) : "";
  const lines = [...tools].sort((a, b) => b[1].calls - a[1].calls).slice(0, 50).map(([name, sum]) =>
    [oneLine(name), String(sum.calls), String(sum.failed), part(sum.took, .5), part(sum.took, .95)]);
  const key = JSON.stringify(lines), body = at("tools");
  at("tools-card").hidden = !lines.length;
  if (body.dataset.key === key) return;
  body.dataset.key = key;
  body.replaceChildren(...lines.map(cells => {
    const tr = tableRow(cells, [1, 2, 3, 4]);
    tr.removeAttribute("role");
    if (cells[2] !== "0") tr.children[2].className = "n bad";
    return tr;
  }));
}

function select(id) {
  if (!id) return;
  selected = id;
  history.replaceState(null, "", "#" + encodeURIComponent(id));
  mark(at("rows"), shown.findIndex(one => one.i === id));
  at("acts").hidden = false;
  at("acts").dataset.drawn = "";
  isDirty = true;
  load();
}

function again() {
  const one = rows.get(selected);
  if (one && !isPaused && (one.d === null || at("acts").dataset.drawn !== "whole")) load();
}

async function load() {
  const id = selected, one = rows.get(id);
  let answer;
  try { answer = await ask("exchanges/" + encodeURIComponent(id)); } catch { return; }
  if (id !== selected) return;
  at("acts").dataset.drawn = one && one.d === null ? "" : "whole";
  if (!answer.ok) {
    at("exchange").hidden = true;
    at("acts-note").textContent = "The bytes of this exchange were not kept: only those of exchanges that begin while a page is open are.";
    at("curl").hidden = at("save").hidden = true;
    return;
  }
  const exchange = await answer.json();
  at("acts-note").textContent = "";
  at("curl").hidden = at("save").hidden = false;
  at("curl").onclick = () => copyCurl(exchange.request);
  at("save").onclick = () => save(id);
  showExchange(exchange);
}

const quoted = text => "'" + text.replaceAll("'", "'\\''") + "'";

async function copyCurl({method, target, headers, body}) {
  const left = ["host", "content-length", "transfer-encoding", "connection", "accept-encoding", "expect"];
  const lines = [`curl -N -X ${quoted(method)} ${quoted(location.origin + target)}`];
  for (const [name, value] of headers) if (!left.includes(name.toLowerCase())) lines.push(`  -H ${quoted(name + ": " + value)}`);
  if (body) lines.push(`  --data-binary ${quoted(body)}`);
  try { await navigator.clipboard.writeText(lines.join(" \\\n")); at("acts-note").textContent = "Copied. Credentials are redacted: put yours in."; }
  catch { at("acts-note").textContent = "This browser does not let a page copy."; }
}

async function save(id) {
  const answer = await ask("exchanges/" + encodeURIComponent(id) + ".jsonl");
  if (!answer.ok) return;
  const link = el("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = id.replace(/[^\w-]/g, "_") + ".jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
