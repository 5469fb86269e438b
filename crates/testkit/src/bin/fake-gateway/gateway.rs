use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::lock::Lock;
use crate::options::Options;
use crate::orders::{Order, What};
use crate::{HOLD, sys};

/// How the gateway treats those who connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    Serving,
    Mute,
    Hung,
}

/// What becomes of WebSockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Hello {
    Said,
    Unsaid,
    Refused,
}

/// The running fake.
pub struct Gateway {
    pub options: Options,
    lock: Lock,
    /// Gone when the gateway is deaf.
    listener: Mutex<Option<Arc<TcpListener>>>,
    /// Both ends of a pipe that wakes the accept loop when something changed.
    pub woken: OwnedFd,
    wake: OwnedFd,
    mode: AtomicU8,
    ready: AtomicBool,
    slow_ms: AtomicU32,
    hello: AtomicU8,
    ignore_sigterm: AtomicBool,
    leave_lock: AtomicBool,
    eaten: Mutex<Vec<Vec<u8>>>,
}

impl Gateway {
    pub fn start(options: Options, lock: Lock, listener: TcpListener) -> Arc<Self> {
        use rustix::pipe::{PipeFlags, pipe_with};
        let (woken, wake) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        listener.set_nonblocking(true).expect("a nonblocking listener");
        let gateway = Arc::new(Self {
            options,
            lock,
            listener: Mutex::new(Some(Arc::new(listener))),
            woken,
            wake,
            mode: AtomicU8::new(Mode::Serving as u8),
            ready: AtomicBool::new(false),
            slow_ms: AtomicU32::new(0),
            hello: AtomicU8::new(Hello::Said as u8),
            ignore_sigterm: AtomicBool::new(false),
            leave_lock: AtomicBool::new(false),
            eaten: Mutex::new(Vec::new()),
        });
        let terminated = Arc::clone(&gateway);
        std::thread::spawn(move || {
            loop {
                sys::wait_for_sigterm();
                if terminated.ignore_sigterm.load(SeqCst) {
                    println!("[gateway] SIGTERM ignored");
                } else {
                    terminated.exit(0);
                }
            }
        });
        gateway
    }

    /// Carry out the orders of this start and become ready after the warm-up.
    pub fn warm_up(self: &Arc<Self>, orders: Vec<Order>) {
        let (later, now): (Vec<_>, Vec<_>) = orders.into_iter().partition(|order| order.when_ready);
        for order in now {
            self.perform(&order.what);
        }
        let warm = move |gateway: &Self| {
            gateway.ready.store(true, SeqCst);
            println!("[gateway] ready");
            for order in later {
                gateway.perform(&order.what);
            }
        };
        if self.options.warmup_ms == 0 {
            return warm(self);
        }
        let gateway = Arc::clone(self);
        std::thread::spawn(move || {
            testkit::pause(Duration::from_millis(gateway.options.warmup_ms));
            warm(&gateway);
        });
    }

    pub fn listener(&self) -> Option<Arc<TcpListener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn mode(&self) -> Mode {
        match self.mode.load(SeqCst) {
            0 => Mode::Serving,
            1 => Mode::Mute,
            _ => Mode::Hung,
        }
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(SeqCst)
    }

    pub fn hello(&self) -> Hello {
        match self.hello.load(SeqCst) {
            0 => Hello::Said,
            1 => Hello::Unsaid,
            _ => Hello::Refused,
        }
    }

    /// How long an answer is kept back.
    pub fn slowness(&self) -> Duration {
        Duration::from_millis(self.slow_ms.load(SeqCst).into())
    }

    /// Do it; the pid of the process that was left behind, if the order was that.
    pub fn perform(&self, what: &What) -> Option<u32> {
        match what {
            What::Crash(code) => {
                eprintln!("[openclaw] Unhandled promise rejection: Error: crash on order");
                match code {
                    Some(code) => std::process::exit((*code).into()),
                    None => std::process::abort(),
                }
            }
            What::Exit(code) => self.exit(*code),
            What::Hang => self.set_mode(Mode::Hung),
            What::Mute => self.set_mode(Mode::Mute),
            What::Deaf => {
                self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
                self.wake_up();
            }
            What::Spin => {
                self.set_mode(Mode::Hung);
                std::thread::spawn(|| {
                    loop {
                        std::hint::spin_loop();
                    }
                });
            }
            What::Slow(ms) => self.slow_ms.store(*ms, SeqCst),
            What::WsMute => self.hello.store(Hello::Unsaid as u8, SeqCst),
            What::WsRefuse => self.hello.store(Hello::Refused as u8, SeqCst),
            What::Fork => return self.leave_orphan(),
            What::IgnoreSigterm => self.ignore_sigterm.store(true, SeqCst),
            What::LeaveLock => self.leave_lock.store(true, SeqCst),
            What::Flood(mib) => flood(*mib),
            What::EatMemory(mib) => {
                let block = vec![1_u8; mib << 20];
                self.eaten.lock().unwrap_or_else(PoisonError::into_inner).push(block);
            }
        }
        None
    }

    fn exit(&self, code: u8) -> ! {
        if !self.leave_lock.load(SeqCst) {
            self.lock.remove();
        }
        std::process::exit(code.into())
    }

    fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, SeqCst);
        self.wake_up();
    }

    fn wake_up(&self) {
        // A full pipe wakes as well.
        let _ = rustix::io::write(&self.wake, b"x");
    }

    /// A second process of this program with the listener as its stdin.
    fn leave_orphan(&self) -> Option<u32> {
        let listener = self.listener()?.try_clone().ok()?;
        let child =
            Command::new("/proc/self/exe").arg(HOLD).stdin(Stdio::from(OwnedFd::from(listener))).spawn();
        match child {
            Ok(child) => {
                println!("[gateway] left process {} with the port", child.id());
                Some(child.id())
            }
            Err(error) => {
                eprintln!("fake-gateway: cannot fork: {error}");
                None
            }
        }
    }
}

fn flood(mib: u64) {
    use std::io::Write;
    let line = [b'.'; 1023];
    let mut out = std::io::stdout().lock();
    for _ in 0..mib * 1024 {
        if out.write_all(&line).and_then(|()| out.write_all(b"\n")).is_err() {
            return;
        }
    }
}
