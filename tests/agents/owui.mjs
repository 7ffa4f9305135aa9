#!/usr/bin/env node
// Talks to an agent in Open WebUI's page, and answers what it asks: see README.md.
//   node owui.mjs PLAYWRIGHT_PARENT OWUI_URL MODEL SHOTS 'PROMPT|ANSWER|ANSWER' ...
// ANSWER: allow, deny, wait (until the time is over), stop (allow, then the page's stop button).
import { createRequire } from 'node:module';
import path from 'node:path';
const [dir, url, model, shots, ...turns] = process.argv.slice(2);
const { chromium } = createRequire(path.resolve(dir, 'package.json'))('playwright-core');
const b = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--headless','--no-sandbox','--disable-gpu'] });
const p = await b.newPage({ viewport: { width: 900, height: 900 } });
const tok = await (await fetch(url + '/api/v1/auths/signin', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"email":"","password":""}' })).json();
await p.addInitScript((t) => { localStorage.token = t; localStorage.version = 'x'; }, tok.token);
await p.goto(`${url}/?models=${encodeURIComponent(model)}`, { waitUntil: 'domcontentloaded' });
await p.waitForSelector('#chat-input', { timeout: 60000 }); await p.waitForTimeout(2500);
const close = p.getByRole('button', { name: /okay|let's go|got it/i });
if (await close.count()) await close.first().click().catch(() => {});
const H = { authorization: 'Bearer ' + tok.token };
let n = 0; const seen = new Set();
for (const turn of turns) {
  const [prompt, ...actions] = turn.split('|'); n++;
  await p.locator('#chat-input').click(); await p.keyboard.type(prompt); await p.keyboard.press('Enter');

  const t0 = Date.now(); let acted = 0;
  await p.waitForTimeout(1500);
  const id = () => (p.url().match(/\/c\/([^?]+)/) ?? [])[1];
  let done = false;
  while (!done && Date.now() - t0 < 100000) {
    await p.waitForTimeout(300);
    const frames = p.frames().filter((f) => f.url().includes('/-/approvals/') && !seen.has(f.url()));
    for (const f of frames) {
      const a = actions[Math.min(acted, actions.length - 1)];
      seen.add(f.url()); acted++;
      await p.waitForTimeout(700);
      await p.screenshot({ path: `${shots}/${model}-t${n}-asked${acted}.png` });
      try {
        if (a === 'allow') await f.getByRole('button', { name: 'Allow once' }).click({ timeout: 5000 });
        if (a === 'deny') await f.getByRole('button', { name: 'Deny' }).click({ timeout: 5000 });
        if (a === 'stop') { await f.getByRole('button', { name: 'Allow once' }).click({ timeout: 5000 }); await p.waitForTimeout(3000); await p.screenshot({ path: `${shots}/${model}-t${n}-running.png` });
          await p.locator('button[aria-label="Stop"], #stop-response-button, button:has(svg path[d^="M2.25 12"])').first().click({ timeout: 5000 }).catch((e) => console.log('stop', String(e).slice(0,200))); }
      } catch (e) { console.log('click failed', String(e).slice(0, 300)); }
      await p.waitForTimeout(800);
      await p.screenshot({ path: `${shots}/${model}-t${n}-answered${acted}.png` });
    }
    const cid = id();
    if (cid) {
      const c = await (await fetch(`${url}/api/v1/chats/${cid}`, { headers: H })).json();
      const as = Object.values(c.chat?.history?.messages ?? {}).filter((m) => m.role === 'assistant');
      done = as.length >= n && as.every((m) => m.done || m.error);
    }
  }
  await p.waitForTimeout(1200);
  await p.screenshot({ path: `${shots}/${model}-t${n}-done.png` });
  console.log(n, prompt, 'done', done, Date.now() - t0, 'ms', await p.evaluate(() => [...document.querySelectorAll('[id^="message-"]')].map((e) => e.innerText.trim().replace(/\n+/g, ' / ')).slice(-1)));
}
await b.close();
