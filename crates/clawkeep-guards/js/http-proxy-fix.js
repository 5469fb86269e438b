// http-proxy-fix: libraries that read HTTPS_PROXY by themselves (axios over follow-redirects) ask the proxy
// for an https URL in absolute form, `GET https://host/ HTTP/1.1`, in clear. A proxy that does not look into
// TLS cannot serve that and refuses it. The guard sends such a request through a CONNECT tunnel instead
// (RFC 9110 section 9.3.6); all others it leaves alone.

/** The proxy of the environment, read at each call as the libraries do. */
function environmentProxy() {
  const { env } = process;
  const text = env.https_proxy || env.HTTPS_PROXY || env.all_proxy || env.ALL_PROXY;
  if (!text) return null;
  const url = new URL(text.includes('://') ? text : `http://${text}`);
  return url.protocol === 'http:' ? url : null;
}

// What a request keeps. The rest (agent, host, port, lookup, socket) describes the way to the proxy.
const KEPT = [
  'method', 'auth', 'timeout', 'signal', 'maxHeaderSize', 'insecureHTTPParser', 'joinDuplicateHeaders',
  'highWaterMark', 'ca', 'cert', 'key', 'pfx', 'passphrase', 'rejectUnauthorized', 'checkServerIdentity',
  'secureContext', 'ciphers', 'minVersion', 'maxVersion',
];

/** The request as it should have been made, or null when it is none of ours. */
function untangle(first, second) {
  const hasUrl = typeof first === 'string' || first instanceof URL;
  const given = hasUrl ? (typeof second === 'object' && second) || {} : first;
  if (typeof given?.path !== 'string' || !/^https:\/\//i.test(given.path)) return null;
  const proxy = environmentProxy();
  const base = hasUrl ? new URL(first) : {};
  const host = given.hostname ?? given.host ?? base.hostname;
  const port = Number(given.port || base.port || 80);
  if (!proxy || host !== proxy.hostname || port !== Number(proxy.port || 80)) return null;
  const headers = { ...given.headers };
  if (Array.isArray(given.headers) || typeof given.headers?.entries === 'function') return null;

  let credentials = proxy.username
    ? `Basic ${Buffer.from(`${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`).toString('base64')}`
    : undefined;
  const url = new URL(given.path);
  for (const name of Object.keys(headers)) {
    if (/^proxy-authorization$/i.test(name)) {
      credentials = headers[name];
      delete headers[name];
    } else if (/^(proxy-connection|host)$/i.test(name)) {
      delete headers[name];
    }
  }
  const options = { headers: { ...headers, Host: url.host }, hostname: url.hostname.replace(/^\[|\]$/g, '') };
  for (const key of KEPT) if (given[key] !== undefined) options[key] = given[key];
  options.port = url.port || 443;
  options.path = url.pathname + url.search;
  return { options, proxy: { host: proxy.hostname.replace(/^\[|\]$/g, ''), port, credentials } };
}

guard('http-proxy-fix', () => {
  const http = require('node:http');
  const https = require('node:https');
  const tls = require('node:tls');
  const { request } = http;

  class Tunnel extends https.Agent {
    constructor(proxy) {
      super({ keepAlive: false });
      this.through = proxy;
    }

    createConnection(options, done) {
      const { host, port, credentials } = this.through;
      const name = options.host.includes(':') ? `[${options.host}]` : options.host;
      const authority = `${name}:${options.port}`;
      const headers = { Host: authority };
      if (credentials) headers['Proxy-Authorization'] = credentials;
      const ask = request({ host, port, method: 'CONNECT', path: authority, headers, agent: false });
      if (options.timeout) {
        ask.setTimeout(options.timeout, () => {
          ask.destroy(Object.assign(new Error(`the proxy did not answer in time for ${authority}`), { code: 'ETIMEDOUT' }));
        });
      }
      ask.once('error', done);
      ask.once('connect', (response, socket) => {
        if (response.statusCode === 200) {
          socket.setTimeout(0);
          done(null, tls.connect({ ...options, socket }));
          return;
        }
        socket.destroy();
        done(new Error(`the proxy refused CONNECT ${authority}: ${response.statusCode}`));
      });
      ask.end();
    }
  }

  http.request = function (first, second, third) {
    let fixed = null;
    try {
      fixed = untangle(first, second);
    } catch {
      // A request that cannot be read is Node's to refuse.
    }
    if (!fixed) return Reflect.apply(request, this, arguments);
    const callback = typeof second === 'function' ? second : third;
    return https.request({ ...fixed.options, agent: new Tunnel(fixed.proxy) }, callback);
  };
  http.get = function (first, second, third) {
    const made = http.request(first, second, third);
    made.end();
    return made;
  };
  require('node:module').syncBuiltinESMExports();
});
