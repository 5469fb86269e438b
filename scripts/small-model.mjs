// A real model behind OpenAI's chat completions, on the processor: node small-model.mjs MODEL.gguf [PORT].
// Run where node-llama-cpp can be found. Prints its base URL when it serves. One turn at a time; no tools.
import { createServer } from "node:http";
import { getLlama } from "node-llama-cpp";

const [file, port = "0"] = process.argv.slice(2);
const NAME = "smollm2";
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath: file });
// One thread: several wait for each other by spinning, which on a busy machine takes minutes instead of seconds.
const context = await model.createContext({ contextSize: model.trainContextSize, threads: 1 });
const sequence = context.getSequence();

class Refused extends Error {}

// ChatML, which this model was trained with.
function prompt(messages) {
  if (!Array.isArray(messages) || messages.length === 0) throw new Refused("'messages' is missing or empty");
  const text = (content) =>
    Array.isArray(content) ? content.map((part) => part.text ?? "").join("") : String(content ?? "");
  const turns = messages.map(({ role, content }) => `<|im_start|>${role}\n${text(content)}<|im_end|>\n`);
  return model.tokenize(turns.join("") + "<|im_start|>assistant\n", true);
}

// Gives each piece of text as it comes, and at last how many tokens there were.
async function* answer(request) {
  if (request.model !== NAME) throw new Refused(`there is no model ${JSON.stringify(request.model)} here, only ${NAME}`);
  const tokens = prompt(request.messages);
  const room = context.contextSize - tokens.length;
  if (room < 1) {
    throw new Refused(`the prompt has ${tokens.length} tokens, and the model's context ${context.contextSize}`);
  }
  const most = Math.min(request.max_completion_tokens ?? request.max_tokens ?? 256, room);
  await sequence.clearHistory();
  const said = [];
  let shown = "";
  for await (const token of sequence.evaluate(tokens, { temperature: request.temperature ?? 0 })) {
    if (model.isEogToken(token)) break;
    said.push(token);
    const whole = model.detokenize(said);
    // Part of a character is not shown yet.
    if (!whole.endsWith("\uFFFD")) {
      yield whole.slice(shown.length);
      shown = whole;
    }
    if (said.length >= most) break;
  }
  const usage = { prompt_tokens: tokens.length, completion_tokens: said.length };
  return { ...usage, total_tokens: tokens.length + said.length, cut: said.length >= most };
}

let last = Promise.resolve();
async function chat(request, reply) {
  const before = last;
  let done;
  last = new Promise((resolve) => (done = resolve));
  await before;
  try {
    const pieces = answer(request);
    const head = { id: `chatcmpl-${Date.now()}`, created: Math.floor(Date.now() / 1000), model: NAME };
    let step = await pieces.next();
    let text = "";
    const send = (choices, usage) =>
      reply.write(`data: ${JSON.stringify({ ...head, object: "chat.completion.chunk", choices, ...usage })}\n\n`);
    if (request.stream) reply.writeHead(200, { "content-type": "text/event-stream" });
    // Whoever went away needs no more.
    for (; !step.done && !reply.destroyed; step = await pieces.next()) {
      text += step.value;
      if (request.stream) send([{ index: 0, delta: { role: "assistant", content: step.value }, finish_reason: null }]);
    }
    if (!step.done) return void (await pieces.return());
    const { cut, ...usage } = step.value;
    const finish_reason = cut ? "length" : "stop";
    if (request.stream) {
      send([{ index: 0, delta: {}, finish_reason }]);
      if (request.stream_options?.include_usage) send([], { usage });
      reply.end("data: [DONE]\n\n");
    } else {
      const choices = [{ index: 0, message: { role: "assistant", content: text }, finish_reason }];
      json(reply, 200, { ...head, object: "chat.completion", choices, usage });
    }
  } finally {
    done();
  }
}

function json(reply, status, value) {
  reply.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
}

const server = createServer(async (request, reply) => {
  try {
    const call = `${request.method} ${request.url}`;
    if (call === "GET /v1/models") return json(reply, 200, { object: "list", data: [{ id: NAME, object: "model" }] });
    if (call !== "POST /v1/chat/completions") return json(reply, 404, { error: { message: `no ${call} here` } });
    const body = await request.toArray();
    await chat(JSON.parse(Buffer.concat(body).toString()), reply);
  } catch (error) {
    const status = error instanceof Refused || error instanceof SyntaxError ? 400 : 500;
    if (reply.headersSent) return reply.destroy();
    json(reply, status, { error: { message: error.message, type: "invalid_request_error" } });
  }
});
server.listen(Number(port), "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/v1`));
