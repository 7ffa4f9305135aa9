// Draws answers with lines of `quote` in them, by marked, markdown-it and react-markdown, in Chromium.
//   .venv/bin/python tests/lobechat/answers.py | node tests/lobechat/markdown.mjs DIR CHROMIUM OUT.png
// DIR is where node_modules holds playwright-core, marked, markdown-it, react-markdown and react-dom.
// Each line must be a block quote of its own, with nothing but the line in it.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import path from 'node:path';
import { readFileSync } from 'node:fs';

const [dir, chromium, out] = process.argv.slice(2);
const require = createRequire(path.resolve(dir, 'package.json'));
const load = async (name) => import(pathToFileURL(require.resolve(name)).href);
const answers = JSON.parse(readFileSync(0, 'utf8'));
const { marked } = await load('marked');
const markdownIt = require('markdown-it')({ linkify: true, html: true, breaks: true });
const React = require('react');
const { renderToStaticMarkup } = require('react-dom/server');
const reactMarkdown = (await load('react-markdown')).default;
const drawn = {
  marked: (text) => marked(text),
  'markdown-it': (text) => markdownIt.render(text),
  'react-markdown': (text) => renderToStaticMarkup(React.createElement(reactMarkdown, null, text)),
};
const browser = await require('playwright-core').chromium.launch({ executablePath: chromium, args: ['--no-sandbox'] });
const page = await browser.newPage({ viewport: { width: 1200, height: 900 } });
const columns = Object.entries(drawn).map(([name, draw]) =>
  `<td style="vertical-align:top;width:33%"><h4>${name}</h4>${answers.map(({ text }) => `<section>${draw(text)}</section><hr>`).join('')}</td>`);
await page.setContent(`<style>blockquote{border-left:3px solid #bbb;padding-left:8px;margin-left:8px}</style><table><tr>${columns.join('')}</tr></table>`);
let failures = 0;
for (const [at, name] of Object.keys(drawn).entries()) {
  const sections = await page.locator('td').nth(at).locator('section').all();
  for (const [number, section] of sections.entries()) {
    const quotes = (await section.locator('blockquote').allInnerTexts()).map((text) => text.replace(/\u2063/g, '').trim());
    const rest = await section.evaluate((node) => {
      const copy = node.cloneNode(true);
      copy.querySelectorAll('blockquote').forEach((quote) => quote.remove());
      return copy.innerText.trim().replace(/\s+/g, ' ');
    });
    const { lines, said } = answers[number];
    const holds = JSON.stringify([quotes, rest]) === JSON.stringify([lines, said]);
    failures += !holds;
    console.log(`${holds ? 'ok  ' : 'FAIL'} ${name} ${number}${holds ? '' : ` ${JSON.stringify([quotes, lines, rest, said])}`}`);
  }
}
await page.screenshot({ path: out, fullPage: true });
await browser.close();
process.exit(failures ? 1 : 0);
