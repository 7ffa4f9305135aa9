// Talks on LobeChat's chat page, each prompt in a topic of its own or as the next turn of the last one.
//   node drive.mjs '{"playwright": DIR, "chromium": PATH, "url": URL, "out": PREFIX, "provider": NAME, "talks": [[NAME, PROMPT, ...], ...]}'
// DIR is where node_modules/playwright-core lies. Screenshots: PREFIX-NAME-TURN-running|done.png.
// Prints {NAME: [{"running": TEXT, "seen": [TEXT, ...], "done": TEXT, "shimmers": BOOL}, ...], ...}.
import { createRequire } from 'node:module';
import path from 'node:path';

const job = JSON.parse(process.argv[2]);
const require = createRequire(path.resolve(job.playwright, 'package.json'));
const browser = await require('playwright-core').chromium.launch({
  executablePath: job.chromium,
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-sync'],
});
// The page obfuscates what it sends its server: LobeChat's obfuscatePayloadWithXOR.
const key = Buffer.from('LobeHub · LobeHub');
const mixed = (bytes) => Buffer.from(bytes.map((byte, at) => byte ^ key[at % key.length]));
const result = {};
for (const [name, ...prompts] of job.talks) {
  const turns = (result[name] = []);
  // A new context has an empty browser database: no topic is left of the talk before.
  const context = await browser.newContext({ viewport: { width: 1000, height: 800 } });
  // The page stays as it is, and LobeChat's server runs its code for another provider and model.
  await context.route('**/webapi/chat/openai', async (route) => {
    const request = route.request();
    const headers = await request.allHeaders();
    const terms = JSON.parse(mixed(Buffer.from(headers['x-lobe-chat-auth'], 'base64')).toString());
    const runs = JSON.stringify({ ...terms, runtimeProvider: job.provider });
    headers['x-lobe-chat-auth'] = mixed(Buffer.from(runs)).toString('base64');
    const asked = { ...request.postDataJSON(), model: 'any-model' };
    await route.continue({
      url: request.url().replace(/openai$/, job.provider),
      headers,
      postData: JSON.stringify(asked),
    });
  });
  const page = await context.newPage();
  try {
    await page.goto(`${job.url}/chat`, { waitUntil: 'domcontentloaded', timeout: 300_000 });
    const input = page.locator('[contenteditable=true]').last();
    await input.waitFor({ timeout: 300_000 });
    await page.waitForTimeout(3000);
    for (const [at, prompt] of prompts.entries()) {
      const shot = (when) => page.screenshot({ path: `${job.out}-${name}-${at + 1}-${when}.png` });
      const turn = { seen: [] };
      turns.push(turn);
      let over = false;
      for (const end of ['requestfinished', 'requestfailed']) {
        page.on(end, (request) => { over ||= /webapi\/chat/.test(request.url()); });
      }
      // `next dev` compiles what is new and loads the page again: what was typed is gone then.
      for (let attempt = 0; attempt < 4; attempt++) {
        await input.waitFor({ timeout: 300_000 });
        await input.click();
        await page.keyboard.type(prompt);
        await page.keyboard.press('Enter');
        const is_sent = page.waitForRequest(/webapi\/chat/, { timeout: 15_000 });
        if (await is_sent.then(() => true, () => false)) break;
      }
      // What the page shows of the answer, each time that it changes.
      const text = async () => {
        const all = await page.evaluate(() => document.body.innerText);
        const from = all.lastIndexOf(prompt);
        return all.slice(from + prompt.length).trim().replace(/\s*\n\s*/g, ' | ').slice(0, 600).toWellFormed();
      };
      let last = '';
      let still = 0;
      for (let tick = 0; tick < 600 && !(over && still > 20); tick++) {
        await page.waitForTimeout(200);
        const now = await text();
        still = now === last ? still + 1 : 0;
        if (now !== last) turn.seen.push(now);
        if (!turn.running && job.running && new RegExp(job.running).test(now)) {
          turn.running = now;
          await page.waitForTimeout(700);
          await shot('running');
        }
        last = now;
      }
      turn.done = last;
      // The word that LobeChat's thinking block shows until something closes it.
      turn.shimmers = /Deep Thinking/.test(await page.innerText('body'));
      await shot('done');
    }
  } catch (error) {
    turns.push({ error: String(error).slice(0, 400) });
    await page.screenshot({ path: `${job.out}-${name}-error.png` }).catch(() => {});
  }
  await context.close();
}
console.log(JSON.stringify(result));
await browser.close();
