// nemotron-inference-fix: the chat template of Nemotron models can render an empty assistant turn, which
// stalls a conversation. `chat_template_kwargs: {"force_nonempty_content": true}` prevents it. The guard adds
// that to chat completions asked of inference.local for those models, and touches no other request. A value
// that the caller has set himself stays.

const MAX_BODY = 16 * 1024 * 1024;

/** The body with the argument added, or undefined when it stays as it is. */
function mended(text) {
  if (!/nemotron/i.test(text)) return undefined;
  const body = JSON.parse(text);
  if (typeof body?.model !== 'string' || !/nemotron/i.test(body.model)) return undefined;
  const given = body.chat_template_kwargs;
  if (given === undefined) {
    // As text, so that no other byte changes (numbers beyond 2^53 among them).
    const start = text.indexOf('{') + 1;
    return `${text.slice(0, start)}"chat_template_kwargs":{"force_nonempty_content":true},${text.slice(start)}`;
  }
  if (given === null) return JSON.stringify({ ...body, chat_template_kwargs: { force_nonempty_content: true } });
  if (typeof given !== 'object' || Array.isArray(given) || 'force_nonempty_content' in given) return undefined;
  return JSON.stringify({ ...body, chat_template_kwargs: { ...given, force_nonempty_content: true } });
}

function isOurs(method, hostname, pathname) {
  return method?.toUpperCase() === 'POST' && hostname === 'inference.local' && /\/chat\/completions$/.test(pathname);
}

function patchFetch() {
  const real = globalThis.fetch;
  if (typeof real !== 'function') return;
  globalThis.fetch = function fetch(input, init) {
    let changed = init;
    try {
      if ((typeof input === 'string' || input instanceof URL) && init && typeof init === 'object') {
        const url = new URL(input);
        const { body } = init;
        const text = typeof body === 'string' ? body : body instanceof Uint8Array ? Buffer.from(body).toString() : '';
        const more = isOurs(init.method, url.hostname, url.pathname) ? mended(text) : undefined;
        if (more !== undefined) {
          const headers = new Headers(init.headers);
          headers.delete('content-length');
          if (!headers.has('content-type')) headers.set('content-type', 'text/plain;charset=UTF-8');
          changed = { ...init, headers, body: more };
        }
      }
    } catch {
      changed = init;
    }
    return arguments.length < 2 ? Reflect.apply(real, this, arguments) : real.call(this, input, changed);
  };
}

/** Holds back what is written to a request until its end, then sends it mended. */
function holdBack(request) {
  const { write, end } = request;
  let held = [];
  let size = 0;
  const release = () => {
    const chunks = held;
    held = null;
    request.write = write;
    request.end = end;
    return Buffer.concat(chunks);
  };
  const take = (chunk, encoding) => {
    if (chunk === undefined || chunk === null) return;
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk, encoding) : Buffer.from(chunk);
    held.push(bytes);
    size += bytes.length;
  };
  request.write = function (chunk, encoding, callback) {
    const done = typeof encoding === 'function' ? encoding : callback;
    take(chunk, typeof encoding === 'string' ? encoding : undefined);
    if (size > MAX_BODY) return write.call(request, release(), done);
    if (typeof done === 'function') process.nextTick(done);
    return true;
  };
  request.end = function (chunk, encoding, callback) {
    const done = [chunk, encoding, callback].find((argument) => typeof argument === 'function');
    if (typeof chunk !== 'function') take(chunk, typeof encoding === 'string' ? encoding : undefined);
    let body = release();
    try {
      const more = request.headersSent ? undefined : mended(body.toString());
      if (more !== undefined) {
        body = Buffer.from(more);
        if (request.hasHeader('content-length')) request.setHeader('content-length', body.length);
      }
    } catch {
      // What cannot be read as JSON goes out as it came.
    }
    return body.length > 0 ? end.call(request, body, done) : end.call(request, done);
  };
}

function patchRequest(module) {
  const real = module.request;
  module.request = function () {
    const request = Reflect.apply(real, this, arguments);
    try {
      const host = String(request.getHeader('host') ?? request.host).replace(/:\d+$/, '');
      const path = request.path.replace(/^https?:\/\/[^/]*/i, '').replace(/[?#].*$/s, '');
      if (!request[STATE] && isOurs(request.method, host, path)) {
        Object.defineProperty(request, STATE, { value: true });
        holdBack(request);
      }
    } catch {
      // A request of an unknown shape is none of ours.
    }
    return request;
  };
}

guard('nemotron-inference-fix', () => {
  patchFetch();
  patchRequest(require('node:http'));
  patchRequest(require('node:https'));
  require('node:module').syncBuiltinESMExports();
});
