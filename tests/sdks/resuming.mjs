// Asks for a stream as openai's package of npm does, and again where the stream breaks off.
// Arguments: folder with node_modules, base URL. Output: {texts, broken}, as JSON.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.argv[2] + "/"));
const { default: OpenAI } = await import(pathToFileURL(require.resolve("openai")));
const client = new OpenAI({ baseURL: process.argv[3], apiKey: "k", maxRetries: 2 });
const headers = { "Idempotency-Key": "k-1" };
let texts = [];
let broken = 0;
for (let asked = 0; asked < 5; asked++) {
  texts = [];
  try {
    const body = { model: "m", messages: [{ role: "user", content: "hi" }], stream: true };
    const stream = await client.chat.completions.create(body, { headers });
    for await (const chunk of stream) texts.push(chunk.choices[0]?.delta?.content ?? "");
    break;
  } catch (error) {
    broken++;
  }
}
console.log(JSON.stringify({ texts, broken }));
