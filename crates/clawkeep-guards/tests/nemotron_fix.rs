//! The Nemotron fix in real Node: which bodies change, and that no others do.

mod support;

use serde_json::{Value, json};
use support::with;

/// A server that all names lead to, and the three ways in which clients send.
const WORLD: &str = "
const http = require('node:http'), dns = require('node:dns');
dns.lookup = (name, options, done) => (options.all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4));
const got = [];
const server = http.createServer((req, res) => {
    const parts = [];
    req.on('data', (part) => parts.push(part));
    req.on('end', () => {
        const body = Buffer.concat(parts);
        const digest = () => 'sha256 ' + require('node:crypto').createHash('sha256').update(body).digest('hex');
        got.push({ body: body.length > 1000 ? digest() : body.toString(), headers: req.headers });
        res.end('ok');
    });
});
const request = (url, options, write) => new Promise((done, fail) => {
    const req = http.request(url, options, (res) => { res.resume(); res.on('end', () => done(res.statusCode)); });
    req.on('error', fail);
    write(req);
});
server.listen(0, async () => {
    const base = 'http://inference.local:' + server.address().port;
    await run(base, base + '/v1/chat/completions');
    console.log(JSON.stringify(got));
    process.exit();
});
";

fn play(guards: &[&'static str], body: &str) -> Vec<Value> {
    let ended = with(guards).js(&format!("{WORLD} async function run(base, url) {{ {body} }}"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap()
}

const FIX: &[&str] = &["nemotron-inference-fix"];

fn body(got: &Value) -> Value {
    serde_json::from_str(got["body"].as_str().unwrap()).unwrap()
}

#[test]
fn the_argument_is_added_however_the_body_is_sent() {
    let got = play(
        FIX,
        r#"
        const text = JSON.stringify({ model: 'nvidia/Nemotron-3-super', messages: ['ü'] });
        const method = 'POST', headers = { 'content-type': 'application/json' };
        await fetch(url, { method, headers, body: text });
        await fetch(new URL(url), { method, headers: { ...headers, 'content-length': String(Buffer.byteLength(text)) }, body: Buffer.from(text) });
        await request(url, { method, headers }, (req) => req.end(text));
        await request(url, { method, headers: { 'content-length': Buffer.byteLength(text) } }, (req) => {
            req.write(text.slice(0, 10));
            req.write(Buffer.from(text.slice(10)), () => req.end());
        });
        await request(url, { method }, (req) => require('node:stream').Readable.from([Buffer.from(text)]).pipe(req));
    "#,
    );
    assert_eq!(got.len(), 5);
    for one in &got {
        let want = json!({"chat_template_kwargs": {"force_nonempty_content": true}, "model": "nvidia/Nemotron-3-super", "messages": ["ü"]});
        assert_eq!(body(one), want, "{one}");
    }
}

#[test]
fn what_the_caller_has_set_stays_and_no_number_changes() {
    let got = play(
        FIX,
        r#"
        for (const body of [
            '{"seed":12345678901234567890,"model":"nemotron"}',
            '{"model":"nemotron","chat_template_kwargs":{"enable_thinking":false}}',
            '{"model":"nemotron","chat_template_kwargs":null}',
            '{"model":"nemotron","chat_template_kwargs":{"force_nonempty_content":false}}',
        ]) await fetch(url, { method: 'POST', body });
    "#,
    );
    let bodies: Vec<_> = got.iter().map(|one| one["body"].as_str().unwrap()).collect();
    assert_eq!(
        bodies,
        [
            r#"{"chat_template_kwargs":{"force_nonempty_content":true},"seed":12345678901234567890,"model":"nemotron"}"#,
            r#"{"model":"nemotron","chat_template_kwargs":{"enable_thinking":false,"force_nonempty_content":true}}"#,
            r#"{"model":"nemotron","chat_template_kwargs":{"force_nonempty_content":true}}"#,
            r#"{"model":"nemotron","chat_template_kwargs":{"force_nonempty_content":false}}"#,
        ]
    );
}

#[test]
fn every_other_request_is_byte_for_byte_the_same() {
    let requests = r#"
        const other = url.replace('inference.local', 'api.test');
        const nemotron = '{"model":"nemotron"}';
        const method = 'POST';
        await fetch(url, { method, body: '{"model":"hermes3","messages":["about nemotron"]}' });
        await fetch(url, { method, body: 'nemotron, no JSON' });
        await fetch(url, { method, body: '["nemotron"]' });
        await fetch(url, { method, body: '{"model":"nemotron","chat_template_kwargs":[1]}' });
        await fetch(url, { method, body: new Blob([nemotron]) });
        await fetch(url, { method, body: new ReadableStream({ start(c) { c.enqueue(Buffer.from(nemotron)); c.close(); } }), duplex: 'half' });
        await fetch(new Request(url, { method, body: nemotron }));
        await fetch(other, { method, body: nemotron });
        await fetch(base + '/v1/embeddings', { method, body: nemotron });
        await fetch(url, { method: 'PUT', body: nemotron });
        await fetch(url);
        await request(url, { method }, (req) => req.end());
        await request(url, { method }, (req) => req.end('no JSON, nemotron', () => {}));
        await request(other, { method }, (req) => req.end(nemotron));
        await request(url, { method, headers: { 'content-length': nemotron.length } }, (req) => { req.flushHeaders(); req.end(nemotron); });
        await request(url, { method }, (req) => { for (let i = 0; i < 20; i++) req.write(Buffer.alloc(1 << 20, 'x')); req.end('nemotron'); });
        await fetch('data:,x').then((r) => r.text());
        let thrown = 0;
        for (const args of [[], [null], ['not a url', {}]]) await fetch(...args).catch(() => thrown++);
        got.push({ body: String(thrown), headers: {} });
    "#;
    let (naked, fixed) = (play(&[], requests), play(FIX, requests));
    assert_eq!(naked.len(), 17);
    for (want, have) in naked.iter().zip(&fixed) {
        assert_eq!(want["body"], have["body"]);
        // Node frames a body that it gets whole by its length, one that comes in parts by chunks.
        let keep = |one: &Value| {
            let mut headers = one["headers"].as_object().unwrap().clone();
            headers
                .retain(|name, _| !matches!(name.as_str(), "host" | "transfer-encoding" | "content-length"));
            headers
        };
        assert_eq!(keep(want), keep(have));
    }
    assert_eq!(naked.len(), fixed.len());
}
