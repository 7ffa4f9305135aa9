// The tools of one answer, in the message of a chat that shows it, as they run.
import {axis, scale, steady, ticked, toolLane} from "./bars.js";
import {at, oneLine} from "./text.js";

const bars = [], running = new Map(), MOST = 100, ATTEMPTS = 5;
let began = 0, cursor = 0, status = "", height = 0;

export async function showTools() {
  const timer = setInterval(draw, 250);
  for (let attempt = 0; attempt < ATTEMPTS && !status; attempt++) {
    try { if (await follow() === false) break; } catch { /* it broke off */ }
    if (!status) await new Promise(go => setTimeout(go, 1000));
  }
  clearInterval(timer);
  status = status || "gone";
  draw();
}

async function follow() {
  const answer = await fetch(`${location.href.split(/[?#]/)[0]}/events?after=${cursor}`);
  if (!answer.ok) return false;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "";;) {
    const {value, done} = await reader.read();
    if (done) return true;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) take(Object.fromEntries(block.split("\n").map(line => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()])));
    draw();
  }
}

function take({event, data}) {
  if (!data) return;
  const fields = JSON.parse(data), key = `${fields.toolCallId} ${fields.choice || 0}`, ms = fields.ts * 1000;
  cursor = fields.seq || cursor;
  began = began || ms;
  if (event === "tool.running" && bars.length < MOST) {
    const bar = {tool: fields.tool, label: fields.label, emoji: fields.emoji, start: ms - began, stop: null, took: null, failed: false, reason: ""};
    bars.push(bar);
    running.set(key, bar);
  } else if (event === "tool.completed" && running.has(key)) {
    Object.assign(running.get(key), {stop: ms - began, took: fields.durationMs, failed: Boolean(fields.isError), reason: fields.reason || ""});
    running.delete(key);
  } else if (event === "stream.done") { status = fields.status; scale.span = Math.max(1, ms - began); }
}

function draw() {
  const end = status || !began ? scale.span : Math.max(1, ticked(Date.now() - began), ...bars.map(bar => bar.stop || bar.start));
  if (!status && began) scale.span = steady(end);
  const failed = bars.filter(bar => bar.failed).length, open = bars.filter(bar => bar.stop === null).length;
  const words = [`${bars.length} tool${bars.length === 1 ? "" : "s"}`, failed ? `${failed} failed` : "", !status && open ? `${open} running` : "", status && status !== "completed" && status !== "gone" ? status : ""];
  at("note").textContent = bars.length ? oneLine(words.filter(Boolean).join(" · ")) : status ? "What ran here is not kept any more." : "connecting …";
  at("lanes").replaceChildren(...bars.length ? [axis(at("lanes").clientWidth), ...bars.map(bar => toolLane(bar, end, status ? undefined : "running"))].flat() : []);
  const now = Math.ceil(document.querySelector("main").getBoundingClientRect().height);
  // Open WebUI makes the frame as high as the page says.
  if (now !== height) parent.postMessage({type: "iframe:height", height: height = now}, "*");
}
