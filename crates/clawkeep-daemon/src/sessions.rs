//! Shells and commands that people run in a sandbox. The bytes go directly between the asker and the process:
//! a daemon that dies takes no session with it.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use clawkeep_isolation::proto::{Ended, Kind, Order, Reply, Spawn, Stdio};
use clawkeep_plan::{Digest, Tier};
use clawkeep_store::unix_ms;
use clawkeep_supervisor::{Blueprint, InitClient, SESSION};

use crate::api::{Answer, Failure, Value};
use crate::running::Running;
use crate::wire::Asker;

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A person's shell: bash where the sandbox's system has it.
const LOGIN: [&str; 3] = ["/bin/sh", "-c", "command -v bash > /dev/null && exec bash; exec sh"];

/// What a session is.
pub struct Session {
    pub argv: Vec<String>,
    pub terminal: Option<(u16, u16)>,
    pub term: Option<String>,
}

pub fn sandbox_down(name: &str) -> Failure {
    Failure::new("not-running", format!("sandbox {name} is not running"), format!("clawkeep {name} start"))
}

/// Run a session to its end, or until the asker goes away.
pub async fn run(
    asker: &Asker,
    running: &Running,
    session: Session,
    fds: Vec<std::os::fd::OwnedFd>,
) -> Result<Value, Failure> {
    let blueprint = running.blueprint();
    let name = blueprint.name.as_str();
    let client = running.client.borrow().clone().ok_or_else(|| sandbox_down(name))?;
    let id = format!("{SESSION}{}-{}", unix_ms(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let failed = |error: clawkeep_supervisor::InitError| {
        Failure::new("exec-failed", error.to_string(), format!("clawkeep {name} status"))
    };
    let stdio = match session.terminal {
        Some((rows, columns)) => Stdio::Terminal { rows, columns },
        None => Stdio::Given,
    };
    let plan = &blueprint.plan;
    let mut env = plan.env.clone();
    // What only the gateway itself is told.
    for variable in
        [clawkeep_guards::PROCESS_ENV, clawkeep_guards::RECEIPT_FD_ENV, clawkeep_guards::RECEIPT_GUARDS_ENV]
    {
        env.remove(variable);
    }
    let term = session.term.filter(|term| term.len() < 64 && term.bytes().all(|b| b.is_ascii_graphic()));
    if session.terminal.is_some() {
        env.insert("TERM".into(), term.unwrap_or_else(|| "xterm-256color".into()));
    }
    let argv = if session.argv.is_empty() { LOGIN.map(String::from).into() } else { session.argv };
    let spawn = Spawn {
        id: id.clone(),
        kind: Kind::Session,
        plan: Digest::of(b""),
        argv: with_path(argv),
        env,
        cwd: plan.cwd.clone(),
        netlink: plan.sealing.netlink,
        landlock_abi_min: plan.sealing.landlock_abi_min,
        stdio,
        reports: false,
    };
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let (reply, mut extra) = client.ask(Order::Spawn(Box::new(spawn)), &borrowed).await.map_err(failed)?;
    drop(fds);
    let Reply::Spawned { .. } = reply else {
        return Err(failed(clawkeep_supervisor::InitError::Confused));
    };
    let master = if extra.len() > 1 { extra.pop() } else { None };
    let told = asker.answer(Answer::Session { id: id.clone() }, master.as_ref().map(AsFd::as_fd)).await;
    drop(master);
    if told.is_err() {
        end(&client, &id).await;
    }
    wait(asker, &client, &id, name).await
}

/// Wait for the end of a session that was begun before.
pub async fn attach(asker: &Asker, running: &Running, id: &str) -> Result<Value, Failure> {
    let blueprint = running.blueprint();
    let name = blueprint.name.as_str();
    let client = running.client.borrow().clone().ok_or_else(|| sandbox_down(name))?;
    let known = match client.ask(Order::Hello, &[]).await {
        Ok((Reply::Hello { children, .. }, _)) => children.iter().any(|child| child.id == id),
        _ => false,
    };
    if !known {
        return Err(gone(name));
    }
    wait(asker, &client, id, name).await
}

async fn wait(asker: &Asker, client: &InitClient, id: &str, name: &str) -> Result<Value, Failure> {
    let how = tokio::select! {
        how = client.session_ended(id) => how,
        () = asker.gone() => {
            end(client, id).await;
            client.session_ended(id).await
        }
    };
    client.forget_session(id).await;
    match how {
        Some(Ended::Exited(status)) => Ok(Value::Ended { status }),
        Some(Ended::Signalled(signal)) => Ok(Value::Ended { status: 128 + signal }),
        None => Err(gone(name)),
    }
}

fn gone(name: &str) -> Failure {
    let what = format!("sandbox {name} went away while the command ran");
    Failure::new("sandbox-gone", what, format!("clawkeep {name} status"))
}

/// Nobody listens any more: as if its terminal had been hung up, then for good.
async fn end(client: &InitClient, id: &str) {
    for signal in [1, 9] {
        // One that has ended needs no signal.
        let _ = client.order(Order::Signal { id: id.to_owned(), signal }).await;
    }
}

/// Init executes absolute paths only; a bare name is looked up inside, by the sandbox's own `env`.
fn with_path(argv: Vec<String>) -> Vec<String> {
    if argv.first().is_some_and(|program| program.contains('/')) {
        argv
    } else {
        ["/usr/bin/env".to_owned(), "--".to_owned()].into_iter().chain(argv).collect()
    }
}

/// Remove everything in the sandbox's `/tmp` and kill everything that runs there, from inside, as the agent's
/// user: what a lost container looks like to what comes after it.
pub async fn wipe(client: &InitClient, blueprint: &Blueprint) -> Result<(), Failure> {
    let id = format!("{SESSION}wipe-{}-{}", unix_ms(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let failed = |error: String| Failure::new("rehearsal-failed", error, "clawkeep status".to_owned());
    let null = || {
        std::fs::File::options().read(true).write(true).open("/dev/null").map_err(|e| failed(e.to_string()))
    };
    let (input, output, errors) = (null()?, null()?, null()?);
    let script = "find \"${TMPDIR:-/tmp}\" -mindepth 1 -maxdepth 1 ! -name gateway.log -exec rm -rf {} +; kill -KILL -1";
    let mut env = blueprint.plan.env.clone();
    env.retain(|name, _| ["PATH", "TMPDIR"].contains(&name.as_str()));
    let spawn = Spawn {
        id: id.clone(),
        kind: Kind::Session,
        plan: Digest::of(b""),
        argv: ["/bin/sh", "-c", script].map(String::from).into(),
        env,
        cwd: blueprint.plan.cwd.clone(),
        netlink: blueprint.plan.sealing.netlink,
        landlock_abi_min: blueprint.plan.sealing.landlock_abi_min,
        stdio: Stdio::Given,
        reports: false,
    };
    let fds = [input.as_fd(), output.as_fd(), errors.as_fd()];
    client.ask(Order::Spawn(Box::new(spawn)), &fds).await.map_err(|e| failed(e.to_string()))?;
    client.session_ended(&id).await;
    client.forget_session(&id).await;
    if blueprint.plan.sealing.tier == Tier::Landlock {
        // There no process of one start signals those of another.
        let everything = Order::KillAll { spare_sessions: false };
        client.ask(everything, &[]).await.map_err(|e| failed(e.to_string()))?;
    }
    Ok(())
}
