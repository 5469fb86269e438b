//! A provider, or whoever a credential is for, may send a secret back, and an agent may log it: it is taken out of
//! what is shown of its log. The file is within the sandbox's reach and stays as the agent wrote it.

use std::cell::OnceCell;
use std::time::Duration;

use clawkeep_credentials::Redactor;
use clawkeep_daemon::api::{Request, Value};
use clawkeep_daemon::{connect, stored_secrets};
use clawkeep_store::Secrets;

use crate::host::Host;
use crate::output;

/// How long the daemon may take to look through a piece.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most that is looked through at once, in bytes: as JSON it must fit in a line of the protocol.
const PIECE: usize = 512 * 1024;

/// Takes secrets out of a log. The daemon knows them all; without one those that are stored are known.
pub struct Cleaner<'a> {
    host: &'a Host,
    stored: OnceCell<Redactor>,
}

impl<'a> Cleaner<'a> {
    /// With the secrets of this installation.
    pub fn new(host: &'a Host) -> Self {
        Self { host, stored: OnceCell::new() }
    }

    /// Whole lines, those with a secret in them without it and the others byte for byte.
    pub fn lines(&self, mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        while !bytes.is_empty() {
            let piece = &bytes[..bytes.len().min(PIECE)];
            let end = piece.iter().rposition(|byte| *byte == b'\n').map_or(piece.len(), |at| at + 1);
            let (piece, rest) = bytes.split_at(end);
            self.piece(piece, &mut out);
            bytes = rest;
        }
        out
    }

    fn piece(&self, piece: &[u8], out: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(piece);
        let clean = self.clean(&text);
        if clean == text {
            return out.extend(piece);
        }
        // A secret is of one line, so there are as many lines as before.
        let (before, after) = (text.split_inclusive('\n'), clean.split_inclusive('\n'));
        for ((bytes, before), after) in piece.split_inclusive(|byte| *byte == b'\n').zip(before).zip(after) {
            out.extend(if before == after { bytes } else { after.as_bytes() });
        }
    }

    fn clean(&self, text: &str) -> String {
        let request = Request::Redact { text: text.to_owned() };
        let asked = connect(self.host.root()).ok().flatten().and_then(|mut daemon| {
            daemon.set_patience(PATIENCE).ok()?;
            daemon.ask(&request, |_| ()).ok()
        });
        match asked {
            Some(Value::Text(clean)) => clean,
            _ => self.stored.get_or_init(|| self.read()).redact(text).into_owned(),
        }
    }

    fn read(&self) -> Redactor {
        let (Ok(home), Ok(names)) = (self.host.home(), self.host.names()) else { return Redactor::default() };
        let (secrets, unreadable) = stored_secrets(&Secrets::new(&home), &names);
        if unreadable > 0 {
            output::error(&format!(
                "warning: {unreadable} secrets cannot be read: where the agent logged one, it is shown\n"
            ));
        }
        Redactor::new(&secrets)
    }
}
