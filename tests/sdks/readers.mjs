// Reads streams as the packages of npm do. One JSON object a line in: {vocabulary, body}; one out:
// {error, last}: what the reader refused, and what it had at the end.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.argv[2] + "/"));
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { verifyEvents, enforceEvents } = await load("@ag-ui/client");
const { parseJsonEventStream, readUIMessageStream, uiMessageChunkSchema } = await load("ai");
const { from, lastValueFrom, toArray } = await load("rxjs");

const events = (body) =>
  body.split("\n\n").filter((block) => block.startsWith("data: ")).map((block) => JSON.parse(block.slice(6)));

async function agUi(body) {
  const checked = from(events(body)).pipe(verifyEvents(), toArray());
  return (await lastValueFrom(checked)).map((event) => event.type);
}

async function vercelUi(body) {
  const stream = new Blob([body]).stream();
  const chunks = parseJsonEventStream({ stream, schema: uiMessageChunkSchema }).pipeThrough(
    new TransformStream({
      transform(result, controller) {
        if (!result.success) throw result.error;
        controller.enqueue(result.value);
      },
    }),
  );
  const errors = [];
  let last = null;
  for await (const message of readUIMessageStream({ stream: chunks, onError: (e) => errors.push(e) })) last = message;
  // The stream's own error is told in the same way as one of the reader's.
  const refused = errors.filter((error) => !body.includes(`"errorText":${JSON.stringify(error.message)}`));
  if (refused.length) throw refused[0];
  return last;
}

const readers = { "ag-ui": agUi, "vercel-ui": vercelUi };
for await (const line of createInterface({ input: process.stdin })) {
  const { vocabulary, body } = JSON.parse(line);
  let answer;
  try {
    answer = { error: "", last: await readers[vocabulary](body) };
  } catch (error) {
    answer = { error: String(error), last: null };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
