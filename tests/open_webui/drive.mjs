// Talks to one model on Open WebUI's chat page and tells what the page showed.
//   node drive.mjs '{"playwright": DIR, "chromium": PATH, "url": URL, "model": NAME,
//                    "turns": [TEXT, ...], "out": PREFIX, "picture": BOOL}'
// DIR is where node_modules/playwright-core lies. Screenshots: PREFIX-TURN-running|done|open.png,
// and PREFIX-reloaded.png. With "picture" also PREFIX-picture.png: a small page at twice the resolution,
// at the last moment when a tool still runs, with the group of cards opened.
// Prints {"chat": ID, "reloaded": TEXT, "stored": [MESSAGE, ...], "turns": [{"running": TEXT,
// "spinning": N, "done": TEXT, "open": TEXT, "crosses": N, "spinners": N, "framedRunning": [TEXT, ...],
// "framed": [TEXT, ...]}, ...]}.
import { createRequire } from 'node:module';
import { writeFileSync } from 'node:fs';
import path from 'node:path';

const job = JSON.parse(process.argv[2]);
const require = createRequire(path.resolve(job.playwright, 'package.json'));
const browser = await require('playwright-core').chromium.launch({
  executablePath: job.chromium,
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-sync'],
});
const size = job.picture ? { width: 760, height: 600 } : { width: 900, height: 900 };
const page = await browser.newPage({ viewport: size, deviceScaleFactor: job.picture ? 2 : 1 });

const api = async (where, options) => (await fetch(job.url + where, options)).json();
const { token } = await api('/api/v1/auths/signin', {
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: '{"email": "", "password": ""}',
});
await page.addInitScript((t) => { localStorage.token = t; localStorage.version = 'any'; }, token);

// What is new in this version: a dialog over everything.
const greeting = page.getByRole('button', { name: /okay|let's go|got it/i });
const greet = async () => { if (await greeting.count()) await greeting.first().click().catch(() => {}); };

const answers = async () => {
  const chat = (page.url().match(/\/c\/([^?]+)/) ?? [])[1];
  if (!chat) return [];
  const stored = await api(`/api/v1/chats/${chat}`, { headers: { authorization: `Bearer ${token}` } });
  const messages = Object.values(stored.chat?.history?.messages ?? {});
  return messages.filter((message) => message.role === 'assistant');
};
const last = async () => page.locator(`[id="message-${(await answers()).at(-1)?.id}"]`);
const text = async () => {
  const shown = await (await last()).innerText({ timeout: 2000 }).catch(() => '');
  return shown.trim().replace(/\s*\n\s*/g, ' | ');
};
// What a card shows that has failed, or that has not ended. (The answer's own buttons have neither.)
const marks = async () => ({
  crosses: await (await last()).locator('.text-red-500, .text-red-600, .text-red-400').count(),
  spinners: await (await last()).locator('.animate-spin, .spinner_ajPY, [class*="spinner"], .shimmer').count(),
});
// What the frames in the chat show, whatever their origin.
const framed = () => Promise.all(page.frames().slice(1).map((frame) =>
  frame.evaluate(() => document.body.innerText.trim().replace(/\s*\n\s*/g, ' | ')).catch(() => '')));
const until = async (holds, ms) => {
  for (const end = Date.now() + ms; Date.now() < end; await page.waitForTimeout(150)) {
    if (await holds()) return true;
  }
  return false;
};

const frame = `body::after { content: ''; position: fixed; inset: 0 0 auto; height: 378px; z-index: 99999;
  border: 1px solid #d0d7de; border-radius: 8px; pointer-events: none; }`;
const picture = async (ended) => {
  await page.addStyleTag({ content: frame });
  await page.mouse.move(5, 580);
  const [running, over] = [page.getByText(/^Executing/), page.getByText(/^View Result/)];
  for (let seen = -1; !(await ended()); await page.waitForTimeout(100)) {
    const group = page.getByText(/^Explor(ing|ed)/);
    if (seen < 0 && await group.count()) await group.last().click({ timeout: 2000 }).catch(() => {});
    const now = await over.count();
    if (now === seen || !(await running.count())) continue;
    seen = now;
    await page.waitForTimeout(300);
    writeFileSync(`${job.out}-picture.png`, await page.screenshot({ clip: { x: 0, y: 0, width: 760, height: 378 } }));
  }
};

const result = { turns: [] };
try {
  await page.goto(`${job.url}/?models=${encodeURIComponent(job.model)}`, { waitUntil: 'domcontentloaded' });
  await page.waitForSelector('#chat-input', { timeout: 90_000 });
  await page.waitForTimeout(2000);
  for (const [at, prompt] of job.turns.entries()) {
    const shot = (when) => page.screenshot({ path: `${job.out}-${at + 1}-${when}.png` });
    const turn = {};
    result.turns.push(turn);
    await greet();
    await page.locator('#chat-input').click();
    await page.keyboard.type(prompt);
    await page.keyboard.press('Enter');
    const ended = async () => {
      const all = await answers();
      return all.length > at && all.every((answer) => answer.done || answer.error);
    };
    const runs = page.getByText(/^(Executing|Exploring|Preparing)/).last();
    await until(async () => (await runs.isVisible().catch(() => false)) || (await ended()), 60_000);
    await page.waitForTimeout(300);
    turn.running = await text();
    turn.spinning = (await marks()).spinners;
    turn.framedRunning = await framed();
    await shot('running');
    if (job.picture) await picture(ended);
    turn.ended = await until(ended, 60_000);
    await page.waitForTimeout(1000);
    await greet();
    turn.done = await text();
    turn.acted = await page.evaluate(() => document.documentElement.dataset.acted ?? '');
    turn.dialogs = await page.getByText('Log in again').count();
    turn.frames = await page.locator('iframe').count();
    turn.framed = await framed();
    if (turn.dialogs) await page.keyboard.press('Escape');
    Object.assign(turn, await marks());
    await shot('done');
    // A group of cards first, then each card in it.
    for (const name of [/^Explored/, /^(View Result from|Executed) /]) {
      for (const card of (await (await last()).getByText(name).all()).reverse()) {
        await card.click({ timeout: 2000 }).catch(() => {});
        await page.waitForTimeout(400);
      }
    }
    turn.open = await text();
    await shot('open');
  }
  await page.reload({ waitUntil: 'domcontentloaded' });
  await until(async () => (await text()) !== '', 30_000);
  await page.waitForTimeout(1500);
  await greet();
  result.reloaded = await text();
  result.html = await (await last()).innerHTML().catch(() => '');
  await page.screenshot({ path: `${job.out}-reloaded.png` });
  result.stored = await answers();
  result.chat = (page.url().match(/\/c\/([^?]+)/) ?? [])[1];
} catch (error) {
  result.error = String(error).slice(0, 400);
}
console.log(JSON.stringify(result));
await browser.close();
