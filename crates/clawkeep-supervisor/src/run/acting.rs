//! What the core wants done, done; and the look for what an earlier supervisor left.

use clawkeep_isolation::proto::{Child, Kind, Order};
use clawkeep_plan::{InputId, Mismatch, Tier};
use clawkeep_recovery::{Blame, Event};
use serde_json::json;
use tokio::time::Instant;

use super::watching::{restored_line, stranger};
use super::{DeniedCalls, Hooks, Supervisor, launch_id, launch_number, unix_ms};
use crate::blueprint::SafeMode;
use crate::sandbox::{self, Sandbox, adopt};
use crate::snapshot::Gateway;

impl<H: Hooks> Supervisor<H> {
    pub(super) async fn prepare(&mut self) {
        if let Err(reason) = self.hooks.whole_system().await {
            self.incident("prepare-failed", reason.clone(), json!({}));
            return self.feed(Event::PrepareFailed { reason });
        }
        match sandbox::prepare(&self.blueprint).await {
            Ok(sandbox) => {
                let made = match self.blueprint.plan.sealing.tier {
                    Tier::Namespaces => "namespaces and mounts are there",
                    Tier::Landlock => "its first process is there, without namespaces, as it was asked for",
                };
                self.hooks.record("prepared", made, json!({ "init": sandbox.handle.pid }));
                self.came_up(sandbox);
                self.feed(Event::Prepared);
            }
            Err(error) => {
                let reason = error.explained(&self.blueprint).await;
                self.incident("prepare-failed", reason.clone(), json!({}));
                self.feed(Event::PrepareFailed { reason });
            }
        }
    }

    pub(super) fn came_up(&mut self, mut sandbox: Sandbox) {
        // The host side serves twins; ours are what verification goes by.
        sandbox.served = match sandbox.inside.try_clone() {
            Ok(twins) => self.hooks.up(sandbox.client.clone(), twins),
            Err(error) => {
                self.incident("serve-failed", format!("take the sandbox's sockets: {error}"), json!({}));
                Vec::new()
            }
        };
        self.sandbox = Some(sandbox);
    }

    pub(super) async fn clear(&mut self, thorough: bool) {
        self.gateway_gone();
        let Some(sandbox) = &self.sandbox else {
            return self.feed(Event::ClearFailed { reason: "the sandbox is gone".into() });
        };
        match sandbox.clear(thorough).await {
            Ok(lines) => {
                for line in lines {
                    self.log(line).await;
                }
                self.feed(Event::Cleared);
            }
            Err(error) => {
                let reason = error.to_string();
                self.incident("clear-failed", reason.clone(), json!({}));
                self.feed(Event::ClearFailed { reason });
            }
        }
    }

    pub(super) async fn log(&self, line: String) {
        if let Some(sandbox) = &self.sandbox {
            // A log that cannot be written must not stop a recovery.
            let _ = sandbox.client.order(Order::Log { line }).await;
        }
    }

    pub(super) async fn launch(&mut self, number: u64, safe: bool) {
        if !safe {
            self.replace_no_file();
        }
        let unproven = self.look_at_config();
        match self.try_launch(number, safe).await {
            Ok(()) => self.feed(Event::Launched { launch: number, unproven }),
            Err((blame, reason)) => {
                self.log(format!("[gateway-recovery] ERROR: {reason} - refusing unguarded gateway relaunch"))
                    .await;
                self.incident("refused", reason.clone(), json!({ "launch": number }));
                self.feed(Event::LaunchRefused { reason, command: None, blame });
            }
        }
    }

    /// The one way to a running agent: put in place, verify, execute.
    pub(super) async fn try_launch(&mut self, number: u64, safe: bool) -> Result<(), (Blame, String)> {
        let host = |reason: String| (Blame::Environment, reason);
        let Some(sandbox) = &self.sandbox else { return Err(host("the sandbox is gone".into())) };
        if let (true, Some(SafeMode { route: Some(route), .. })) = (safe, &self.blueprint.safe) {
            self.write_safe_config(route).map_err(host)?;
        }
        let restored = sandbox.publish(&self.blueprint).map_err(host)?;
        for (name, found) in &restored {
            // In a new /tmp there is nothing to restore.
            if number > 1 || *found != clawkeep_guards::Published::Missing {
                self.log(restored_line(name)).await;
            }
        }
        self.unpublished = None;
        sandbox.make_runtime_dirs(&self.blueprint).map_err(|error| host(error.to_string()))?;
        let port = self.blueprint.adapter.health().map(|spec| spec.port);
        if let Some((port, uid)) = port.and_then(|port| Some((port, sandbox.stranger_on(port)?))) {
            return Err(host(stranger(port, uid)));
        }
        let verified = sandbox.verify(&self.blueprint, self.plan()).map_err(|refusal| {
            let file = |mismatch: &Mismatch| matches!(mismatch.input, InputId::File(_));
            let blame = if refusal.mismatches.iter().any(file) { Blame::Agent } else { Blame::Environment };
            (blame, refusal.to_string())
        })?;
        let plan = verified.digest();
        let log_from = self.log_length();
        let process =
            sandbox.launch(verified, launch_id(number)).await.map_err(|error| host(error.to_string()))?;
        self.hooks.record(
            "launched",
            "every input verified",
            json!({
                "launch": number, "plan": plan, "safe": safe,
                "pid": process.host, "pid_inside": process.inside,
            }),
        );
        self.log_from = log_from;
        self.inside = process.inside;
        self.took_gateway(number, process.host.unwrap_or(0), unix_ms());
        Ok(())
    }

    pub(super) fn took_gateway(&mut self, launch: u64, pid: i32, started_at: u64) {
        self.began = Instant::now();
        self.gateway = Some(Gateway { launch, pid, started_at, ready_at: None, adopted: false });
        self.oom_kills = self.oom_kills_now();
        self.oom_kills_asked = self.oom_kills;
        self.receipt = None;
        self.denied = DeniedCalls::default();
        self.terminated = false;
        self.unloaded = None;
        self.serves_unguarded = None;
        self.exec_failure = None;
        self.canary_at = None;
        self.grace = None;
        self.next_probe = Some(Instant::now());
    }

    /// Processes of the sandbox that were killed for lack of memory, by the kernel's count.
    pub(super) fn oom_kills_now(&self) -> u64 {
        self.sandbox.as_ref().and_then(|sandbox| sandbox.usage().oom_kills).unwrap_or(0)
    }

    pub(super) fn gateway_gone(&mut self) {
        self.gateway = None;
        self.receipt = None;
        self.next_probe = None;
    }

    pub(super) async fn terminate(&mut self) {
        let (Some(sandbox), Some(gateway)) = (&self.sandbox, &self.gateway) else { return };
        self.terminated = true;
        // One that is gone already has its end on the way to us.
        let _ = sandbox.client.order(Order::Signal { id: launch_id(gateway.launch), signal: 15 }).await;
    }

    pub(super) async fn tear_down(&mut self) {
        self.gateway_gone();
        if let Some(sandbox) = self.sandbox.take() {
            self.hooks.down();
            if let Err(error) = sandbox.tear_down().await {
                self.incident("tear-down-failed", error.to_string(), json!({}));
            }
        }
        self.feed(Event::TornDown);
    }

    /// Take over what an earlier daemon left running: only what this very plan would have launched.
    pub(super) async fn find_earlier(&mut self) {
        let found = match adopt(&self.blueprint).await {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => return self.incident("adopt-failed", error.to_string(), json!({})),
        };
        let (sandbox, children) = found;
        let last = children.iter().filter(|c| c.kind == Kind::Gateway).max_by_key(|c| launch_number(&c.id));
        let number = last.and_then(|child| launch_number(&child.id)).unwrap_or(self.state.launches);
        let plan = self.blueprint.plan.digest();
        let safe_plan = self.blueprint.safe.as_ref().map(|safe| safe.plan.digest());
        let safe = last.is_some_and(|child| child.plan != plan && Some(child.plan) == safe_plan);
        if last.is_some_and(|child| child.plan != plan && !safe) {
            self.incident(
                "replaced",
                "a sandbox of another plan was found".into(),
                json!({ "launch": number }),
            );
            self.hooks.down();
            // Gone or not, the next step makes a new one and says so if it cannot.
            let _ = sandbox.tear_down().await;
            return;
        }
        let running = last.filter(|child| child.ended.is_none()).cloned();
        for child in children.iter().filter(|child| child.kind == Kind::Gateway && child.ended.is_some()) {
            // How it ended matters no more: the next launch is a new one.
            let _ = sandbox.client.order(Order::Forget { id: child.id.clone() }).await;
        }
        self.came_up(sandbox);
        self.hooks.record(
            "adopted",
            "a running sandbox of an earlier daemon",
            json!({ "launch": number, "running": running.is_some() }),
        );
        let adopted = |running, receipt| Event::Adopted { launch: number, running, receipt, safe };
        match running {
            Some(child) => {
                self.adopt_gateway(&child, number);
                self.note_denied_before(&children);
                self.feed(adopted(true, false));
                self.look_at_receipt(number, &child.receipt).await;
                // What was done to /tmp while nobody looked, no watch will tell.
                self.restore(&[]).await;
            }
            None => self.feed(adopted(false, false)),
        }
    }

    pub(super) fn adopt_gateway(&mut self, child: &Child, number: u64) {
        let pid = self.sandbox.as_ref().and_then(|sandbox| sandbox.host_pid_of(child.pid)).unwrap_or(0);
        let started_at = sandbox::started_at(pid).unwrap_or_else(unix_ms);
        self.inside = child.pid;
        self.took_gateway(number, pid, started_at);
        if let Some(began) = sandbox::age(pid).and_then(|age| self.began.checked_sub(age)) {
            self.began = began;
        }
        if let Some(gateway) = &mut self.gateway {
            gateway.adopted = true;
        }
    }
}
