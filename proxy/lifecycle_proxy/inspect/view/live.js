// The exchanges of a running proxy, as they happen.
import {still, ticked} from "./bars.js";
import {showExchange} from "./exchange.js";
import "./lanes.js";
import {showRecording} from "./recording.js";
import {at, el, mark, oneLine, row as tableRow, walkable} from "./text.js";

const KEY = "lifecycle-proxy key", SLOT_MS = 250, REDRAW_MS = 100, AGAIN_MS = 1000, UPSTREAMS_MS = 5000, GOOD = ["", "done", "eof"];
const rows = new Map();
let shift = 0, selected = "", isPaused = false, loading = 0, isDirty = true, isConnected = false, shown = [], upstreams = [];

// The header says that this page asks: another site cannot send it.
const headers = () => ({"X-Lifecycle-Page": "1", ...sessionStorage.getItem(KEY) && {Authorization: "Bearer " + sessionStorage.getItem(KEY)}});
const ask = (path, more) => fetch("/-/page/" + path, {headers: headers(), cache: "no-store", ...more});

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
  at("open").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", openRecording);
  at("back").addEventListener("click", () => show(true));
  at("end").addEventListener("click", () => { at("sure").hidden = false; at("keep").focus(); });
  at("keep").addEventListener("click", () => { at("sure").hidden = true; at("end").focus(); });
  at("end-now").addEventListener("click", end);
  addEventListener("hashchange", () => { if (!at("live").hidden) select(linked()); });
  selected = linked();
  say("connecting …");
  setInterval(() => { if (isDirty || anyOpen()) requestAnimationFrame(draw); }, REDRAW_MS);
  setInterval(again, AGAIN_MS);
  setInterval(loadUpstreams, UPSTREAMS_MS);
  follow();
}

function linked() {
  try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; }
}

async function follow() {
  let answer;
  try { answer = await ask("changes"); } catch { answer = null; }
  if (answer && answer.status === 401) { at("key-form").hidden = false; at("key").focus(); say("a key is needed"); return; }
  if (!answer || !answer.ok) { say(answer ? `status ${answer.status}` : "the proxy does not answer"); setTimeout(follow, 2000); return; }
  rows.clear();
  isConnected = false;
  say("connecting …");
  loadUpstreams();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let rest = "";;) {
      const {value, done} = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line) take(JSON.parse(line));
      if (lines.length && !isConnected) { isConnected = isDirty = true; say(""); }
    }
  } catch { /* the connection broke: as its end */ }
  say("the proxy has ended the connection");
  setTimeout(follow, 1000);
}

const say = text => { at("connection").textContent = text; };
const now = () => Date.now() + shift;
const STEP_MS = 5000; // of the lanes, where motion is to be reduced
const anyOpen = () => !isPaused && [...rows.values()].some(one => one.d === null);

function take(change) {
  if (change.now) shift = change.now - Date.now();
  for (const fresh of change.rows || []) {
    const old = rows.get(fresh.i) || {slots: new Map(), marks: [], n: 0, at: 0};
    const came = fresh.n - old.n, slot = Math.floor(now() / SLOT_MS) * SLOT_MS;
    fresh.slots = old.slots;
    fresh.marks = old.marks;
    if (fresh.l) fresh.marks.splice(fresh.l[0], Infinity, ...fresh.l[1]);
    if (came > 0 && old.i) {
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
  const of = {client: one.c, model: one.m, upstream: one.u, question: one.w, state: `${one.e || "open"} ${one.x}`, route: `${one.r} ${one.y}`, tool: one.k.map(tool => tool[0]).join(" ")};
  const all = Object.values(of).join(" ").toLowerCase();
  return words.every(word => {
    const [, name, rest] = word.match(/^(\w+):(.*)$/) || [];
    return name && Object.hasOwn(of, name) ? of[name].toLowerCase().includes(rest) : all.includes(word);
  });
}

// Who has scrolled reads: new rows wait then, so that nothing moves away.
const isHeld = () => isPaused || at("lanes-of-all").scrollTop > 0 || at("rows").closest(".scroll").scrollTop > 0;

function draw() {
  if (isPaused && !isDirty || !isConnected || at("live").hidden) return;
  isDirty = false;
  const all = [...rows.values()].sort((a, b) => b.t - a.t), fresh = all.filter(wanted);
  shown = isHeld() && shown.length ? shown.map(one => rows.get(one.i) || one).filter(wanted) : fresh;
  const open = all.filter(one => one.d === null).length, waiting = fresh.length - shown.length;
  at("summary").textContent = `${open} open, ${all.length - open} finished${fresh.length < all.length ? `, ${fresh.length} shown` : ""}${waiting > 0 ? `, ${waiting} new above` : ""}`;
  at("none").hidden = shown.length > 0;
  const time = ticked(now()), until = still.matches ? Math.ceil(time / STEP_MS) * STEP_MS : time;
  const from = Math.max(until - 60000, Math.min(until - 10000, ...shown.filter(one => one.d === null).map(one => one.t)));
  at("lanes-of-all").selected = selected;
  if (!isPaused) at("lanes-of-all").show(shown, from, until, time); else at("lanes-of-all").draw();
  drawRows(time);
  drawTools(all);
  drawUpstreams(all);
}

const seconds = value => value === null ? "" : value < 10000 ? (value / 1000).toFixed(2) : (value / 1000).toFixed(0);

function drawRows(time) {
  const body = at("rows"), top = shown.slice(0, 100), focused = body.contains(document.activeElement) && document.activeElement.dataset.i;
  const stop = top.some(one => one.i === selected) ? selected : top.length && top[0].i; // of Tab
  top.forEach((one, index) => {
    const tools = [...new Set(one.k.map(tool => tool[0]))].join(", ");
    const cells = [new Date(one.t).toLocaleTimeString([], {hour12: false}), one.c, one.m || one.r, one.u, one.w, one.d === null ? "open" : one.e || "–",
      String(one.s || ""), tools, seconds(one.f), seconds(one.d === null ? Math.max(0, time - ticked(one.t)) : one.d)].map(oneLine);
    let tr = body.children[index];
    if (!tr) { tr = tableRow(cells, [6, 8, 9]); body.append(tr); }
    else cells.forEach((cell, i) => { if (tr.children[i].textContent !== cell) tr.children[i].textContent = cell; });
    const kind = one.bad ? "bad" : one.d === null ? "running" : "";
    if (tr.className !== kind) tr.className = kind;
    tr.dataset.i = one.i;
    tr.tabIndex = one.i === stop ? 0 : -1;
    const is = String(one.i === selected);
    if (tr.getAttribute("aria-selected") !== is) tr.setAttribute("aria-selected", is);
  });
  while (body.children.length > top.length) body.lastElementChild.remove();
  // The focus stays with its exchange, wherever that has moved to.
  const place = focused ? top.findIndex(one => one.i === focused) : -1;
  if (place >= 0 && body.children[place] !== document.activeElement) body.children[place].focus({preventScroll: true});
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
  at("tools-card").hidden = !lines.length;
  fill(at("tools"), lines, [1, 2, 3, 4], cells => cells[2] !== "0" ? 2 : -1);
}

// Rows that nobody picks, written only where they have changed; one cell may be bad.
function fill(body, lines, numbers, bad) {
  const key = JSON.stringify(lines);
  if (body.dataset.key === key) return;
  body.dataset.key = key;
  body.replaceChildren(...lines.map(cells => {
    const tr = tableRow(cells, numbers);
    tr.removeAttribute("role");
    if (bad(cells) >= 0) tr.children[bad(cells)].classList.add("bad");
    return tr;
  }));
}

async function loadUpstreams() {
  if (at("live").hidden || document.hidden) return;
  try {
    const answer = await ask("upstreams");
    if (answer.ok) upstreams = (await answer.json()).upstreams;
    isDirty = true;
  } catch { /* the other connection says so */ }
}

function drawUpstreams(all) {
  fill(at("upstreams"), upstreams.map(({name, url, state, aside_s: wait, open, models, listed, last_error: error}) => {
    const own = all.filter(one => one.u === name), last = own.find(one => one.d !== null);
    const failed = own.find(one => one.x.startsWith("upstream_"));
    const known = state || (last ? last.x.startsWith("upstream_") ? "failing" : "ok" : "–");
    const names = models || listed || [];
    return [`${name} ${url}`, wait ? `${known} for ${wait} s` : known, String(open ?? own.filter(one => one.d === null).length),
      names.slice(0, 8).join(", ") + (names.length > 8 ? ` and ${names.length - 8} more` : ""), error || (failed ? failed.x : "")].map(oneLine);
  }), [2], cells => cells[1].startsWith("ok") || cells[1] === "–" ? -1 : 1);
}

// Live, or a recording.
function show(isLive) {
  at("live").hidden = !isLive;
  at("recording").hidden = at("back-line").hidden = isLive;
  if (!isLive) return;
  at("exchange").hidden = true;
  isDirty = true;
  if (rows.has(selected)) select(selected); else history.replaceState(null, "", "#");
}

async function openRecording() {
  const [file] = at("file").files;
  at("file").value = "";
  if (!file) return;
  say("reading " + oneLine(file.name) + " …");
  try {
    const answer = await ask("recordings", {method: "POST", body: file});
    const data = await answer.json();
    say(answer.ok ? "" : oneLine(data.error.message));
    if (answer.ok && data.exchanges.length) { show(false); showRecording(data); }
  } catch { say("the recording could not be read"); }
}

async function end() {
  at("sure").hidden = true;
  const answer = await ask(`exchanges/${encodeURIComponent(selected)}/end`, {method: "POST"}).catch(() => null);
  if (answer && answer.ok) again(); else at("acts-note").textContent = "It could not be ended.";
}

function select(id) {
  if (!id) return;
  selected = id;
  history.replaceState(null, "", "#" + encodeURIComponent(id));
  mark(at("rows"), shown.findIndex(one => one.i === id));
  at("acts").hidden = false;
  at("sure").hidden = true;
  at("acts").dataset.drawn = "";
  isDirty = true;
  load();
}

function again() {
  const one = at("live").hidden ? null : rows.get(selected);
  at("end").hidden = !one || one.d !== null;
  if (at("end").hidden) at("sure").hidden = true;
  if (one) at("acts").hidden = false;
  if (one && !isPaused && !loading && (one.d === null || at("acts").dataset.drawn !== "whole")) load();
}

async function load() {
  const id = selected, one = rows.get(id);
  let answer;
  loading++;
  try { answer = await ask("exchanges/" + encodeURIComponent(id)); } catch { return; } finally { loading--; }
  if (id !== selected || at("live").hidden) return;
  at("acts").dataset.drawn = one && one.d === null ? "" : "whole";
  if (!answer.ok) {
    at("exchange").hidden = true;
    at("acts-note").textContent = "The bytes of this exchange were not kept: only those of exchanges that begin while a page is open are.";
    at("curl").hidden = at("save").hidden = true;
    return;
  }
  const exchange = await answer.json();
  at("acts-note").textContent = one && one.e === "stopped" ? "It was ended from a page." : "";
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
