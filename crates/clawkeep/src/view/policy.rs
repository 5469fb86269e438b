//! Policies, as people see them.

use clawkeep_daemon::api::EgressStatus;
use clawkeep_daemon::api::policy::{PolicyReport, RefusedRequest, TimedApproval};
use clawkeep_plan::SandboxName;

use crate::output::{clean, one_line};

/// A difference, as it is.
pub fn difference(lines: &str) -> String {
    clean(lines)
}

/// `the model's route, npm, 1 more rule; 3 refused: clawkeep NAME policy requests`.
pub fn brief(name: &SandboxName, told: &EgressStatus) -> String {
    if let Some(trouble) = &told.trouble {
        return format!("the model's route alone, because {trouble}");
    }
    let some = |count: usize, what: &str| {
        let s = if count == 1 { "" } else { "s" };
        (count > 0).then(|| format!("{count} {what}{s}"))
    };
    let words = std::iter::once("the model's route".to_owned())
        .chain(told.presets.iter().cloned())
        .chain(some(told.rules, "other rule"))
        .chain(some(told.approvals, "timed approval"));
    let mut text = words.collect::<Vec<_>>().join(", ");
    if told.refused > 0 {
        text += &format!("; {} refused: clawkeep {name} policy requests", told.refused);
    }
    text
}

/// The presets that there are, and what else a sandbox has.
pub fn list(report: Option<&PolicyReport>) -> String {
    let has = |name: &String| report.is_some_and(|report| report.presets.contains(name));
    let mut rows: Vec<(bool, String, String)> = clawkeep_policy::presets()
        .iter()
        .map(|preset| (has(&preset.name), preset.name.clone(), preset.description.clone()))
        .collect();
    if let Some(report) = report {
        let rule = |rule: &String| (true, one_line(rule), "a rule of its own".to_owned());
        let approval = |approval: &TimedApproval| {
            let told = format!("approved until {}: {}", approval.until, one_line(&approval.what));
            (true, approval.id.clone(), told)
        };
        rows.extend(report.rules.iter().map(rule));
        rows.extend(report.approvals.iter().map(approval));
    }
    let width = rows.iter().map(|(_, name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (has, name, told) in &rows {
        text += &format!("{} {name:<width$}   {told}\n", if *has { '*' } else { ' ' });
    }
    if let Some(report) = report {
        let some = rows.iter().any(|(has, ..)| *has);
        let all = if some { "* is in force" } else { "nothing but the model's route leads out" };
        text += &format!("\n{}: {all}\n", report.name);
    }
    text
}

/// What was refused, the newest last.
pub fn requests(name: &SandboxName, refused: &[RefusedRequest]) -> String {
    if refused.is_empty() {
        return format!("{name}: nothing was refused\n");
    }
    let mut text = String::new();
    for request in refused {
        let (host, port) = (&request.host, request.port);
        let asked = match (&request.method, &request.path) {
            (Some(method), Some(path)) => format!("{method} {host}:{port}{path}"),
            // A name that was looked up.
            _ if port == 0 => format!("the name {host}"),
            _ => format!("{host}:{port}"),
        };
        let by = request.caller.as_ref().map(|caller| format!(" by {caller}")).unwrap_or_default();
        let times = if request.times == 1 { "once".to_owned() } else { format!("{} times", request.times) };
        text += &one_line(&format!("{}  {asked}{by}, {times}, last {}", request.id, request.last_at));
        text += &format!("\n          {}\n", one_line(&request.message));
    }
    text + &format!("\nto allow one: clawkeep {name} policy approve ID [--for 1h]\n")
}

#[cfg(test)]
mod tests {
    use clawkeep_plan::Digest;

    use super::*;

    #[test]
    fn what_is_in_force_and_what_was_refused_as_people_see_it() {
        let report = PolicyReport {
            schema: 1,
            name: "box".into(),
            presets: vec!["npm".into()],
            rules: vec!["approved_a_example_443".into()],
            approvals: vec![TimedApproval {
                id: "1b2c3d4e".into(),
                what: "GET b.example:443/\u{1b}[2J".into(),
                until: "2026-11-25T12:00:00.000Z".into(),
            }],
            yaml: "version: 1\n".into(),
            digest: Digest::of(b""),
        };
        let told = list(Some(&report));
        let marked: Vec<&str> = told.lines().filter(|line| line.contains('*')).collect();
        insta::assert_snapshot!(marked.join("\n"), @r"
        * npm                      npm and Yarn packages: reading and audits
        * approved_a_example_443   a rule of its own
        * 1b2c3d4e                 approved until 2026-11-25T12:00:00.000Z: GET b.example:443/
        box: * is in force
        ");
        assert!(!told.contains('\u{1b}'));
        assert!(list(None).lines().all(|line| line.starts_with("  ")));
        let empty = PolicyReport { presets: vec![], rules: vec![], approvals: vec![], ..report };
        assert!(list(Some(&empty)).ends_with("\nbox: nothing but the model's route leads out\n"));

        let connection = RefusedRequest {
            id: "00000001".into(),
            host: "a.example".into(),
            port: 443,
            method: None,
            path: None,
            caller: None,
            reason: "host".into(),
            message: "no rule of the policy names this host".into(),
            times: 1,
            first_at: "2026-11-25T12:00:00.000Z".into(),
            last_at: "2026-11-25T12:00:00.000Z".into(),
        };
        let request = RefusedRequest {
            id: "00000002".into(),
            method: Some("POST".into()),
            path: Some("/v1/\n".into()),
            caller: Some("/usr/bin/curl".into()),
            times: 3,
            ..connection.clone()
        };
        let lookup = RefusedRequest { id: "00000003".into(), port: 0, ..connection.clone() };
        let name = "box".parse().unwrap();
        insta::assert_snapshot!(requests(&name, &[connection, request, lookup]), @r"
        00000001  a.example:443, once, last 2026-11-25T12:00:00.000Z
                  no rule of the policy names this host
        00000002  POST a.example:443/v1/  by /usr/bin/curl, 3 times, last 2026-11-25T12:00:00.000Z
                  no rule of the policy names this host
        00000003  the name a.example, once, last 2026-11-25T12:00:00.000Z
                  no rule of the policy names this host

        to allow one: clawkeep box policy approve ID [--for 1h]
        ");
        assert_eq!(requests(&name, &[]), "box: nothing was refused\n");
    }

    #[test]
    fn the_line_of_a_status_is_short() {
        let name = "box".parse().unwrap();
        let told = EgressStatus {
            presets: vec!["npm".into()],
            rules: 2,
            approvals: 1,
            refused: 1,
            ..Default::default()
        };
        insta::assert_snapshot!(brief(&name, &told), @"the model's route, npm, 2 other rules, 1 timed approval; 1 refused: clawkeep box policy requests");
        assert_eq!(brief(&name, &EgressStatus::default()), "the model's route");
        let trouble = EgressStatus { trouble: Some("line 3: x".into()), ..told };
        insta::assert_snapshot!(brief(&name, &trouble), @"the model's route alone, because line 3: x");
    }
}
