//! The proxy fix in real Node: a request as old HTTP clients make it, through a real proxy, to a real TLS
//! server.

mod support;

use serde_json::Value;
use support::{Run, with};

/// A TLS server, a proxy that records what it is asked and serves CONNECT alone, and `ask`, which makes a
/// request as axios over follow-redirects does and prints what came of it.
const WORLD: &str = "
const fs = require('node:fs'), http = require('node:http'), https = require('node:https'), net = require('node:net');
const asked = [], tunnels = [], reached = [];
const server = https.createServer({ key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') }, (req, res) => {
    let body = '';
    req.on('data', (chunk) => (body += chunk));
    req.on('end', () => { reached.push([req.method, req.url, req.headers, body]); res.end('secret answer'); });
});
const proxy = http.createServer((req, res) => { asked.push(req.method + ' ' + req.url); res.writeHead(403).end(); });
proxy.on('connect', (req, client) => {
    asked.push('CONNECT ' + req.url);
    tunnels.push(req.headers);
    if (req.url.startsWith('refused.')) return client.end('HTTP/1.1 403 Forbidden\\r\\n\\r\\n');
    if (req.url.startsWith('silent.')) return;
    const far = net.connect(server.address().port, '127.0.0.1', () => { client.write('HTTP/1.1 200 OK\\r\\n\\r\\n'); client.pipe(far).pipe(client); });
    far.on('error', () => client.destroy());
    client.on('error', () => far.destroy());
});
const listen = (it) => new Promise((done) => it.listen(0, '127.0.0.1', () => done(it.address().port)));
const ask = (url, more = {}, body = undefined) => new Promise((done) => {
    const { hostname, port } = new URL(process.env.HTTPS_PROXY);
    const req = http.request({ hostname, host: hostname, port, path: url, protocol: 'http:', ...more,
        headers: { host: new URL(url).host, 'Proxy-Authorization': 'Basic c2VjcmV0', ...more.headers } }, (res) => {
        let text = '';
        res.on('data', (chunk) => (text += chunk));
        res.on('end', () => done([res.statusCode, text]));
    });
    req.on('error', (error) => done(['error', error.code ?? error.message]));
    req.on('timeout', () => req.destroy());
    req.end(body);
});
(async () => {
    await listen(server);
    process.env.HTTPS_PROXY = 'http://127.0.0.1:' + await listen(proxy);
    const answers = await run();
    console.log(JSON.stringify({ answers, asked, tunnels, reached }));
    process.exit();
})();
";

fn world(guards: &[&'static str]) -> Run {
    let made = rcgen::generate_simple_self_signed(["api.test".to_owned()]).unwrap();
    with(guards).file("cert.pem", &made.cert.pem()).file("key.pem", &made.signing_key.serialize_pem())
}

fn play(run: &Run, body: &str) -> Value {
    let ended = run.js(&format!("{WORLD} async function run() {{ {body} }}"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap()
}

const FIX: &[&str] = &["http-proxy-fix"];

#[test]
fn a_request_in_absolute_form_goes_through_a_tunnel() {
    let post = "return [await ask('https://api.test/v1/x?y=1', { method: 'POST', ca: fs.readFileSync('cert.pem'), headers: { A: 'b' } }, 'hello')];";
    let naked = play(&world(&[]), post);
    assert_eq!(naked["asked"][0], "POST https://api.test/v1/x?y=1");
    assert_eq!(naked["answers"][0][0], 403);

    let fixed = play(&world(FIX), post);
    assert_eq!(fixed["answers"][0], serde_json::json!([200, "secret answer"]), "{fixed}");
    assert_eq!(fixed["asked"], serde_json::json!(["CONNECT api.test:443"]));
    assert_eq!(fixed["tunnels"][0]["proxy-authorization"], "Basic c2VjcmV0");
    let reached = &fixed["reached"][0];
    assert_eq!(
        (&reached[0], &reached[1], &reached[3]),
        (&"POST".into(), &"/v1/x?y=1".into(), &"hello".into())
    );
    assert_eq!((&reached[2]["host"], &reached[2]["a"]), (&"api.test".into(), &"b".into()));
    assert_eq!(reached[2]["proxy-authorization"], Value::Null, "the proxy's credentials are the proxy's");
}

#[test]
fn certificates_are_still_checked_and_a_refusal_is_an_error() {
    let fixed = play(
        &world(FIX),
        "const ca = fs.readFileSync('cert.pem');
         return [await ask('https://api.test/'), await ask('https://other.test/', { ca }), await ask('https://refused.test:8443/'),
                 await ask('https://silent.test/', { timeout: 100 })];",
    );
    assert_eq!(fixed["answers"][0][0], "error");
    assert!(fixed["answers"][0][1].as_str().unwrap().contains("SELF_SIGNED"), "{fixed}");
    assert_eq!(fixed["answers"][1][1], "ERR_TLS_CERT_ALTNAME_INVALID");
    assert_eq!(fixed["answers"][2][1], "the proxy refused CONNECT refused.test:8443: 403");
    assert_eq!(fixed["answers"][3][0], "error", "{fixed}");
    assert_eq!(fixed["reached"].as_array().unwrap().len(), 0);
}

#[test]
fn other_requests_are_untouched() {
    let body = "
        const seen = [];
        const plain = http.createServer((req, res) => { seen.push([req.method, req.url, req.headers['x']]); res.end('plain'); });
        const port = await listen(plain);
        const get = (...args) => new Promise((done, fail) => http.get(...args, (res) => { res.resume(); res.on('end', () => done(res.statusCode)); }).on('error', fail));
        const codes = [
            await get('http://127.0.0.1:' + port + '/a'),
            await get(new URL('http://127.0.0.1:' + port + '/b'), { headers: { x: '1' } }),
            await get({ port, path: '/c' }),
            // Absolute form, but not to the proxy, and to the proxy, but for an http URL.
            await get({ host: '127.0.0.1', port, path: 'https://api.test/d' }),
            (await ask('http://plain.test/e'))[0],
            // A path that only looks like it.
            await get({ host: '127.0.0.1', port, path: '/https://api.test/' }),
        ];
        let thrown = '';
        try { http.request({ path: 'https://api.test/ f' }); } catch (error) { thrown = error.code; }
        return [codes, seen, thrown];
    ";
    let (naked, fixed) = (play(&world(&[]), body), play(&world(FIX), body));
    assert_eq!(naked, fixed);
    assert_eq!(fixed["answers"][0], serde_json::json!([200, 200, 200, 200, 403, 200]));
    assert_eq!(fixed["answers"][2], "ERR_UNESCAPED_CHARACTERS");
    assert_eq!(fixed["tunnels"], serde_json::json!([]));
}

#[test]
fn esm_named_imports_see_it() {
    let run = world(FIX).file("a.mjs", "export { request } from 'node:http';");
    let fixed = play(&run, "return [(await import(process.cwd() + '/a.mjs')).request === http.request];");
    assert_eq!(fixed["answers"][0], true);
}
