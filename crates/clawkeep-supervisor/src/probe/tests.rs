//! Real processes, asked and judged: the fake gateway on the host's loopback.

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use clawkeep_agents::Expect;
use rustix::process::{Pid, Signal, kill_process};
use testkit::{free_port, wait_until};
use tokio::time::Instant;

use super::*;

const LONG: Duration = Duration::from_secs(60);
const PERIOD: Duration = Duration::from_secs(2);

/// A fake gateway that serves.
struct Fake {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Fake {
    fn start(program: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fake = testkit::fake::gateway().to_str().unwrap();
        let words = [program, &[fake]].concat();
        let port = free_port();
        let child = Command::new(words[0])
            .args(&words[1..])
            .args(["--lock", "off", "--port", &port.to_string()])
            .arg("--report")
            .arg(dir.path().join("report"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let fake = Self { child, port, _dir: dir };
        wait_until(LONG, "the fake to serve", || fake.connect().map(drop));
        fake
    }

    fn connect(&self) -> Option<std::net::TcpStream> {
        std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()
    }

    fn order(self, order: &str) -> Self {
        let stream = self.connect().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(testkit::http::post(stream, &format!("/fake/{order}"), b"").unwrap().status, 200);
        self
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn stop(self) -> Self {
        kill_process(Pid::from_raw(self.pid()).unwrap(), Signal::STOP).unwrap();
        self
    }

    fn asking(&self) -> Asking {
        let probe = |path: &str, expect| Probe::Http { path: path.into(), expect };
        let (live, ready) =
            (probe("/healthz", Expect::OpenClawLive), probe("/readyz", Expect::OpenClawReady));
        let canary = Canary { path: "/".into(), event: "connect.challenge".into(), every_ms: 1 };
        let spec = HealthSpec::new(self.port, live, ready, 60).every(PERIOD);
        let spec = HealthSpec { canary: Some(canary), ..spec };
        Asking { spec, gateway: self.pid(), init: 1, judge: true, canary: false }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Direct;

impl Reach for Direct {
    async fn socket(&self) -> io::Result<TcpSocket> {
        TcpSocket::new_v4()
    }
}

/// All that is told, the last word last, and how long it took.
async fn told(reach: &impl Reach, asking: &Asking) -> (Vec<Found>, Duration) {
    let (told, started) = (Mutex::new(Vec::new()), Instant::now());
    let proc = std::fs::File::open("/proc").unwrap().into();
    probe(reach, proc, asking, |found| told.lock().unwrap().push(found)).await;
    (told.into_inner().unwrap(), started.elapsed())
}

async fn last_word(asking: &Asking) -> Found {
    told(&Direct, asking).await.0.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hang_is_found_in_one_period_of_silence() {
    let mut hangs = tokio::task::JoinSet::new();
    for (what, fake) in [
        ("stopped", Fake::start(&[]).stop()),
        ("accepts nothing", Fake::start(&[]).order("hang")),
        ("deadlocked and burning a core", Fake::start(&[]).order("spin")),
        ("accepts and says nothing", Fake::start(&[]).order("mute")),
        ("listens no more", Fake::start(&[]).order("deaf")),
        ("answers too late", Fake::start(&[]).order("slow:600000")),
    ] {
        hangs.spawn(async move {
            let (told, took) = told(&Direct, &fake.asking()).await;
            let (last, starved) = told.split_last().unwrap();
            assert!(matches!(last, Found::Hung(_)), "{what}: {told:?}");
            assert!(starved.iter().all(|found| matches!(found, Found::Starved(_))), "{what}: {told:?}");
            // On a machine that is busy with other tests more than one silence may be needed, and is excused.
            let silences = u32::try_from(told.len()).unwrap();
            assert!(silences <= MAX_SILENCES, "{what}: {told:?}");
            // And there this process is late as well, which prolongs each of them.
            assert!(took <= PERIOD * (2 * silences + 1), "{what}: {took:?} {told:?}");
        });
    }
    hangs.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_answers_lives_however_late() {
    for (fake, ready) in [
        (Fake::start(&[]), true),
        // Later than the second question is put.
        (Fake::start(&[]).order("slow:1700"), true),
        (Fake::start(&["env", "FAKE_WARMUP_MS=600000"]), false),
    ] {
        let last = last_word(&fake.asking()).await;
        let wanted = if ready { Health::Ready } else { Health::Alive };
        assert_eq!(last, Found::Health(wanted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_back_within_the_period_was_never_gone() {
    let fake = Fake::start(&[]);
    let (asking, port) = (fake.asking(), fake.port);
    drop(fake);
    let mut back = None;
    let later = async {
        sleep(PERIOD / 3).await;
        let dir = tempfile::tempdir().unwrap();
        let fake = Command::new(testkit::fake::gateway())
            .args(["--lock", "off", "--port", &port.to_string(), "--report"])
            .arg(dir.path().join("report"))
            .spawn()
            .unwrap();
        back = Some(Fake { child: fake, port, _dir: dir });
    };
    let ((told, _), ()) = tokio::join!(told(&Direct, &asking), later);
    assert_eq!(told, [Found::Health(Health::Ready)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_canary_must_sing_when_it_is_asked() {
    for (order, silent) in [("none", None), ("ws-mute", Some("no hello")), ("ws-refuse", Some("503"))] {
        let fake = Fake::start(&[]).order(order);
        assert_eq!(last_word(&fake.asking()).await, Found::Health(Health::Ready), "{order}: not asked");
        let asking = Asking { canary: true, ..fake.asking() };
        match (last_word(&asking).await, silent) {
            (Found::Proved, None) => {}
            (Found::NotProved(why), Some(wanted)) => assert!(why.contains(wanted), "{why}"),
            // Of a starved one nothing is concluded.
            (Found::Health(Health::Ready), Some("no hello")) => eprintln!("the canary was starved"),
            (found, _) => panic!("{order}: {found:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_warms_up_only_a_stopped_one_is_hung() {
    let warming = |fake: &Fake| Asking { judge: false, ..fake.asking() };
    let mute = Fake::start(&[]).order("mute");
    assert_eq!(last_word(&warming(&mute)).await, Found::Health(Health::Deaf));
    let deaf = Fake::start(&[]).order("deaf");
    let (told, took) = told(&Direct, &warming(&deaf)).await;
    assert_eq!(told, [Found::Health(Health::Deaf)]);
    assert!(took < PERIOD, "nobody listens, which is said at once: {took:?}");
    let stopped = Fake::start(&[]).stop();
    assert!(matches!(last_word(&warming(&stopped)).await, Found::Hung(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_a_stopped_process_is_no_sign_of_life() {
    let fake = Fake::start(&[]);
    let spec = HealthSpec::new(fake.port, Probe::Tcp, Probe::Tcp, 60).every(PERIOD);
    let asking = Asking { spec, ..fake.asking() };
    assert_eq!(last_word(&asking).await, Found::Health(Health::Ready));
    let fake = fake.stop();
    wait_until(LONG, "it to be stopped", || {
        stopped(std::os::fd::AsFd::as_fd(&std::fs::File::open("/proc").unwrap()), fake.pid()).then_some(())
    });
    assert!(matches!(last_word(&asking).await, Found::Hung(_)));
}

/// It wants to run and cannot: that is not its fault. But it cannot be excused for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_starved_one_gets_more_time_and_not_for_ever() {
    let ours = rustix::thread::sched_getaffinity(None).unwrap();
    let cpu = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| ours.is_set(*cpu)).unwrap().to_string();
    let spin =
        || Command::new("taskset").args(["-c", &cpu, "sh", "-c", "while :; do :; done"]).spawn().unwrap();
    let fake = Fake::start(&["nice", "-n", "19", "taskset", "-c", &cpu]).order("spin");
    let mut others: Vec<_> = (0..3).map(|_| spin()).collect();
    let (told, _) = told(&Direct, &fake.asking()).await;
    for other in &mut others {
        other.kill().unwrap();
        other.wait().unwrap();
    }
    assert_eq!(told.len(), MAX_SILENCES as usize, "{told:?}");
    assert!(matches!(told.last(), Some(Found::Hung(evidence)) if evidence.able() < PERIOD / 2), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_asked_proves_nothing() {
    struct Broken;
    impl Reach for Broken {
        async fn socket(&self) -> io::Result<TcpSocket> {
            Err(io::Error::other("the sandbox is gone"))
        }
    }
    let fake = Fake::start(&[]).order("mute");
    assert_eq!(told(&Broken, &fake.asking()).await.0, [Found::Health(Health::Unknown)]);
    // The process is gone; whoever else is asked in its place is mute.
    let asking = Asking { gateway: i32::MAX, ..fake.asking() };
    assert_eq!(last_word(&asking).await, Found::Health(Health::Unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_init_is_told_from_a_silent_gateway() {
    struct Silent;
    impl Reach for Silent {
        async fn socket(&self) -> io::Result<TcpSocket> {
            std::future::pending().await
        }
    }
    let fake = Fake::start(&[]);
    let (told, _) = told(&Silent, &fake.asking()).await;
    assert!(matches!(told.last(), Some(Found::InitHung(_))), "{told:?}");
}
