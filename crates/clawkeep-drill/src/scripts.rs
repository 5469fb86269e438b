//! The scripts around an attack: what each language needs to say what it found, and its positive control.

use crate::attempt::Group;
use crate::target::Runtime;
use crate::words::Context;

/// `=WORD` as output of the attack is its answer; otherwise it is the error that the shell printed.
const SHELL: &str = r#"
answer() { printf '{"step":"%s","answer":"%s"}\n' "$1" "$2"; }
name() {
    case $1 in
    =*) printf %s "${1#=}" ;;
    *'Network is unreachable'*) printf ENETUNREACH ;;
    *'Connection refused'*) printf ECONNREFUSED ;;
    *'Read-only file system'*) printf EROFS ;;
    *'Permission denied'*) printf EACCES ;;
    *'Operation not permitted'*) printf EPERM ;;
    *'No such file or directory'*) printf ENOENT ;;
    *) printf error ;;
    esac
}
control() {
    if [ "$CONTROL" = file ]; then
        : >"$TMP/.clawkeep-drill-sh" && rm "$TMP/.clawkeep-drill-sh"
    elif [ -n "$PROXY" ]; then
        exec 3<>"/dev/tcp/127.0.0.1/$PROXY" &&
            printf 'CONNECT inference.local:443 HTTP/1.1\r\nHost: inference.local:443\r\n\r\n' >&3 &&
            IFS= read -r -t 10 line <&3 && [[ $line == *' 200 '* ]]
    fi
}
tell() {
    local said status
    said=$("$2" 2>&1)
    status=$?
    case $status$said in
    0=*) answer "$1" "$(name "$said")" ;;
    0*) answer "$1" ok ;;
    *) answer "$1" "$(name "$said")" ;;
    esac
}
"#;

const PYTHON: &str = r#"
import errno, json, os, socket

def dial(address, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(10)
        s.connect(address)
        s.sendall(TOKEN.encode())

def datagram(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.3)
        s.connect(address)
        s.send(TOKEN.encode())
        s.recv(16)

def http(target, host):
    with socket.create_connection(('127.0.0.1', PROXY), 10) as s:
        s.sendall(f'{target} HTTP/1.1\r\nHost: {host}\r\n\r\n'.encode())
        status = s.recv(64).split(b' ')[1].decode()
        return 'ok' if status == '200' else status

def create(path):
    open(path, 'x').close()
    os.remove(path)

def control():
    if CONTROL == 'file':
        return create(TMP + '/.clawkeep-drill-python')
    if PROXY:
        return http('CONNECT inference.local:443', 'inference.local:443')
    with socket.create_server(('127.0.0.1', 0)) as s:
        dial(s.getsockname())

def tell(step, run):
    try:
        word = run()
        word, detail = word if isinstance(word, str) else 'ok', ''
    except Exception as e:
        word, detail = errno.errorcode.get(getattr(e, 'errno', None), type(e).__name__), str(e)
    print(json.dumps({'step': step, 'answer': word, 'detail': detail}), flush=True)
"#;

const NODE: &str = r#"
const fs = require('node:fs'), net = require('node:net'), dgram = require('node:dgram');
const lookup = (name) => require('node:dns').promises.lookup(name);
const dial = (to) => new Promise((yes, no) => {
    const s = net.connect(to, () => s.end(TOKEN, yes));
    s.on('error', no);
});
const datagram = (host, port) => new Promise((yes, no) => {
    const s = dgram.createSocket('udp4');
    s.on('error', no);
    s.connect(port, host, (e) => (e ? no(e) : s.send(TOKEN, (e) => (e ? no(e) : yes()))));
});
const http = (target, host) => new Promise((yes, no) => {
    const s = net.connect(PROXY, '127.0.0.1', () => s.write(`${target} HTTP/1.1\r\nHost: ${host}\r\n\r\n`));
    s.on('error', no);
    s.on('end', () => no(new Error('closed')));
    s.once('data', (data) => {
        const status = data.toString('latin1').split(' ')[1];
        yes(status === '200' ? 'ok' : status);
    });
});
const create = (path) => {
    fs.closeSync(fs.openSync(path, 'wx'));
    fs.unlinkSync(path);
};
const control = async () => {
    if (CONTROL === 'file') return create(TMP + '/.clawkeep-drill-node');
    if (PROXY) return http('CONNECT inference.local:443', 'inference.local:443');
    const server = net.createServer();
    await new Promise((yes) => server.listen(0, '127.0.0.1', yes));
    await dial({ host: '127.0.0.1', port: server.address().port });
};
const tell = async (step, run) => {
    let answer = 'ok', detail = '';
    try {
        const word = await run();
        if (typeof word === 'string') answer = word;
    } catch (e) {
        [answer, detail] = [e.code || e.name, e.message];
    }
    fs.writeSync(1, JSON.stringify({ step, answer, detail }) + '\n');
};
"#;

/// The whole script for an attack: an expression in Python and Node, commands in the shell.
pub(crate) fn whole(runtime: Runtime, group: Group, attack: &str, context: &Context<'_>) -> String {
    let control = if group == Group::Egress { "proxy" } else { "file" };
    let bait = context.bait;
    let texts = [
        ("CONTROL", control),
        ("TOKEN", bait.token.as_str()),
        ("FILE", bait.file.as_str()),
        ("ABSTRACT", bait.abstract_name.as_str()),
        ("BOX", context.places.home.as_str()),
        ("TMP", context.places.tmp.as_str()),
        ("CONFIG_FILE", context.places.config.as_deref().unwrap_or_default()),
        ("GUARDS", context.places.guards.as_str()),
    ];
    let numbers = [("TCP", bait.tcp), ("UDP", bait.udp), ("PROXY", context.traits.proxy.unwrap_or(0))];
    let mut script = String::new();
    let mut define = |name: &str, value: String| match runtime {
        Runtime::Node => script += &format!("const {name} = {value};\n"),
        _ => script += &format!("{name}={value}\n"),
    };
    for (name, text) in texts {
        define(name, if runtime == Runtime::Shell { shell_quoted(text) } else { json_quoted(text) });
    }
    for (name, number) in numbers {
        // No proxy: empty in the shell, which is as false as 0 is elsewhere.
        define(
            name,
            if runtime == Runtime::Shell && number == 0 { String::new() } else { number.to_string() },
        );
    }
    script
        + &match runtime {
            Runtime::Python => {
                format!("{PYTHON}\ntell('control', control)\ntell('attack', lambda: {attack})\n")
            }
            Runtime::Node => format!(
                "{NODE}\ntell('control', control).then(() => tell('attack', async () => ({attack}))).then(() => process.exit());\n"
            ),
            _ => format!(
                "export LC_ALL=C\n{SHELL}\nattack() {{\n{attack}\n}}\ntell control control\ntell attack attack\n"
            ),
        }
}

/// For POSIX shells: only a quote needs care within quotes.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A string literal that Python and JavaScript both read.
fn json_quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::answer;
    use crate::attempt::Attack;
    use crate::attempts::attempts;
    use crate::canaries::Canaries;
    use crate::target::{Places, Program, Traits};

    fn run(runtime: Runtime, attack: &str, dir: &std::path::Path) -> answer::Told {
        let canaries = Canaries::set(dir).unwrap();
        let context =
            Context { bait: canaries.bait(), traits: &Traits::default(), places: &Places::default() };
        let script = whole(runtime, Group::Egress, attack, &context);
        let argv = Program { runtime, arguments: vec![script] }.argv("");
        answer::read(&Command::new(&argv[0]).args(&argv[1..]).output().unwrap().stdout)
    }

    #[test]
    fn each_language_tells_success_and_error_and_quotes_what_it_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("it's \"odd\" $HOME");
        std::fs::create_dir(&odd).unwrap();
        for (runtime, reads, fails) in [
            (Runtime::Shell, "[ \"$(cat \"$FILE\")\" = \"$TOKEN\" ]", "cat /nonexistent"),
            (Runtime::Python, "'ok' if open(FILE).read() == TOKEN else 'no'", "open('/nonexistent')"),
            (
                Runtime::Node,
                "fs.readFileSync(FILE, 'utf8') === TOKEN ? 'ok' : 'no'",
                "fs.readFileSync('/nonexistent')",
            ),
        ] {
            for (attack, expected) in [(reads, "ok"), (fails, "ENOENT")] {
                let told = run(runtime, attack, &odd);
                assert_eq!(told.control.unwrap().word, "ok", "{runtime:?}");
                assert_eq!(told.attack.unwrap().word, expected, "{runtime:?} {attack}");
            }
        }
    }

    #[test]
    fn no_script_is_more_than_an_argument_can_hold() {
        let canaries_dir = tempfile::tempdir().unwrap();
        let canaries = Canaries::set(canaries_dir.path()).unwrap();
        let context =
            Context { bait: canaries.bait(), traits: &Traits::default(), places: &Places::default() };
        for attempt in attempts() {
            for way in attempt.ways {
                if let Attack::Script(runtime, attack) = way.attack {
                    assert!(
                        whole(runtime, attempt.group, attack, &context).len() < 32 * 1024,
                        "{}",
                        attempt.id
                    );
                }
            }
        }
    }
}
