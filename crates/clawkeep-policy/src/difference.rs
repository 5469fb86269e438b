use std::fmt;

/// What changes between two texts, for people: the lines that go and come, with a little of what stands around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference(Vec<(char, String)>);

/// How many lines are shown around what changes.
const AROUND: usize = 3;

impl Difference {
    /// Between an old and a new text. Made for one change at one place: all between its ends counts as changed.
    pub fn between(old: &str, new: &str) -> Self {
        let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
        let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
        let tails = old[head..].iter().rev().zip(new[head..].iter().rev());
        let tail = tails.take_while(|(a, b)| a == b).count();
        let marked = |mark: char, lines: &[&str]| -> Vec<(char, String)> {
            lines.iter().map(|line| (mark, (*line).to_owned())).collect()
        };
        let (gone, come) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
        if gone.is_empty() && come.is_empty() {
            return Self(Vec::new());
        }
        let mut lines = marked(' ', &old[head.saturating_sub(AROUND)..head]);
        lines.extend(marked('-', gone));
        lines.extend(marked('+', come));
        let after = old.len() - tail;
        lines.extend(marked(' ', &old[after..old.len().min(after + AROUND)]));
        Self(lines)
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(mark, line)| writeln!(f, "{}", format!("{mark} {line}").trim_end()))
    }
}
