//! `--memory 4G --pids 512 --cpus 1.5 --file-size 10G`, and the same by variables.

use clawkeep_isolation::Limits;

use super::options::Options;
use crate::env::Env;
use crate::problem::Problem;

/// What was asked for: an option, or else its variable.
///
/// # Errors
/// What is no amount, or one with which no sandbox could live.
pub fn resolve(options: &Options, env: &Env) -> Result<Limits, Problem> {
    let one = |given: &Option<String>, option, variable, read: fn(&str) -> Option<u64>, form| {
        let (source, text) = match given {
            Some(text) => (format!("--{option}"), text.clone()),
            None => match env.named(variable)? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        read(&text).map(Some).ok_or_else(|| bad(format!("{source} is {text:?}, which is not {form}")))
    };
    let size = "a size as 512M or 4G";
    let limits = Limits {
        memory_bytes: one(&options.memory, "memory", "MEMORY", bytes, size)?,
        pids: one(&options.pids, "pids", "PIDS", |text| text.parse().ok(), "a number of processes")?,
        cpu_milli: one(&options.cpus, "cpus", "CPUS", milli, "a number of processors as 2 or 1.5")?,
        file_bytes: one(&options.file_size, "file-size", "FILE_SIZE", bytes, size)?,
    };
    limits.check().map_err(|error| bad(error.to_string()))?;
    Ok(limits)
}

fn bad(message: String) -> Problem {
    Problem::usage("bad-limit", message, "clawkeep onboard --help")
}

/// A number of bytes, or of KiB, MiB, GiB, TiB: `4G`, `4g`, `4GB` and `4GiB` are the same.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A decimal number, in thousandths.
fn milli(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if !(1..=3).contains(&part.len()) || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths = part.parse::<u64>().ok()? * 10_u64.pow(3 - u32::try_from(part.len()).ok()?);
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_processors_are_read_as_people_write_them() {
        let gib = 1 << 30;
        for (text, expected) in
            [("4G", 4 * gib), ("4gb", 4 * gib), ("4GiB", 4 * gib), ("65536", 65536), ("64k", 65536)]
        {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for wrong in ["", "G", "-1G", "1.5G", "4 G", "4X", "99999999999999999T", "\u{664}G"] {
            assert_eq!(bytes(wrong), None, "{wrong:?}");
        }
        for (text, expected) in [("2", 2000), ("1.5", 1500), ("0.25", 250), ("0.125", 125)] {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        for wrong in ["", ".", "1.", ".5", "1.2345", "-1", "1.-5", "1e3", "99999999999999999999"] {
            assert_eq!(milli(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn options_come_before_variables_and_both_forms_of_those_are_read() {
        let env = Env::of(&[
            ("CLAWKEEP_MEMORY", "1G"),
            ("NEMOCLAW_PIDS", "512"),
            ("NEMOCLAW_CPUS", "0.5"),
            ("CLAWKEEP_FILE_SIZE", "10G"),
        ]);
        let options = Options { memory: Some("2G".into()), ..Options::default() };
        let limits = resolve(&options, &env).unwrap();
        assert_eq!((limits.memory_bytes, limits.pids), (Some(2 << 30), Some(512)));
        assert_eq!((limits.cpu_milli, limits.file_bytes), (Some(500), Some(10 << 30)));
        assert_eq!(resolve(&Options::default(), &Env::of(&[])).unwrap(), Limits::default());
    }

    #[test]
    fn what_is_no_limit_is_refused_by_the_name_it_was_given_by() {
        let problem = |options: &Options, env: &[(&str, &str)]| {
            let problem = resolve(options, &Env::of(env)).unwrap_err();
            assert_eq!(problem.failure.code, "bad-limit");
            problem.failure.message
        };
        let options = Options { memory: Some("lots".into()), ..Options::default() };
        assert_eq!(problem(&options, &[]), "--memory is \"lots\", which is not a size as 512M or 4G");
        let none = Options::default();
        assert!(problem(&none, &[("NEMOCLAW_CPUS", "x")]).starts_with("NEMOCLAW_CPUS is \"x\""));
        assert!(problem(&none, &[("CLAWKEEP_MEMORY", "1M")]).contains("the least is 67108864"));
    }
}
