//! The table of what was survived, with its figures.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;

use super::bed::Ended;
use super::cases::Limit;
use super::{BACK, Job};

/// One row.
pub(super) struct Row {
    pub(super) job: Job,
    pub(super) result: Result<Ended>,
}

impl Row {
    /// What was not survived, and how that was seen.
    pub(super) fn not_survived(&self) -> Option<String> {
        let error = self.result.as_ref().err()?;
        Some(format!("{} was not survived: {error:#}", self.job.name()))
    }

    /// What is beyond its limit, in words; `mv` is what a bare `mv` costs, where it was measured.
    pub(super) fn beyond(&self, mv: Option<f64>) -> Vec<String> {
        let Ok(Ended { down, back, .. }) = &self.result else { return Vec::new() };
        let limit = match self.job.case.down {
            Some(Limit::Seconds(seconds)) => Some(seconds),
            Some(Limit::TimesMv(times)) => mv.map(|mv| mv * times),
            None => None,
        };
        let name = self.job.name();
        let mut beyond = Vec::new();
        if let Some(limit) = limit.filter(|limit| down > limit) {
            beyond.push(format!("{name}: {down:.1} s without answer, at most {limit:.1} s are right"));
        }
        for back in back.iter().filter(|back| **back > BACK) {
            beyond
                .push(format!("{name}: an API server answers only {} s after the power cut", back.as_secs()));
        }
        beyond
    }
}

/// Writes the table and what is to be read under it.
pub(super) fn write(out: &mut impl Write, rows: &[Row], mv: Option<f64>) -> Result<()> {
    writeln!(
        out,
        "| fault | nodes | what happens | ends as | found by | seconds to the end | without answer | \
         behind the balancer | after a power cut |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for Row { job, result } in rows {
        let (name, nodes, does) = (job.case.name, job.nodes, job.case.does);
        match result {
            Ok(ended) => {
                let state = [&[ended.state.clone()][..], &ended.notes].concat().join("; ");
                let behind = ended.behind.map(|down| format!("{down:.1}")).unwrap_or_default();
                let back: Vec<String> = ended.back.iter().map(seconds).collect();
                writeln!(
                    out,
                    "| {name} | {nodes} | {does} | {state} | {} | {} | {:.1} | {behind} | {} |",
                    ended.found,
                    seconds(&ended.took),
                    ended.down,
                    back.join(", ")
                )?;
            }
            Err(_) => writeln!(out, "| {name} | {nodes} | {does} | **not survived** | | | | | |")?,
        }
    }
    if let Some(mv) = mv {
        writeln!(out, "figure mv-seconds-without-answer {mv:.1}")?;
    }
    let back = rows.iter().filter_map(|row| row.result.as_ref().ok()).flat_map(|ended| &ended.back).max();
    if let Some(back) = back {
        writeln!(out, "figure answer-after-power-cut-seconds-at-most {:.0}", back.as_secs_f64())?;
    }
    Ok(())
}

fn seconds(time: &Duration) -> String {
    format!("{:.0}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::suite::faults::cases;

    fn row(name: &str, down: f64, back: u64) -> Row {
        let case = cases::all().find(|case| case.name == name).expect("a case");
        let ended = Ended {
            state: "refused".to_owned(),
            found: String::new(),
            took: Duration::from_secs(7),
            down,
            behind: None,
            back: vec![Duration::from_secs(back)],
            notes: vec!["noticed after 3 s".to_owned()],
        };
        Row { job: Job { case, nodes: 1 }, result: Ok(ended) }
    }

    #[test]
    fn figures_beyond_their_limits_are_told() {
        assert_eq!(row("unknown-flag", 0.2, 60).beyond(None), Vec::<String>::new());
        assert_eq!(row("unknown-flag", 3.0, 61).beyond(None).len(), 2);
        let unrehearsed = row("unknown-flag-unrehearsed", 70.0, 0);
        assert_eq!(unrehearsed.beyond(None).len(), 0, "no bare mv was measured");
        assert_eq!(unrehearsed.beyond(Some(40.0)).len(), 1);
        assert_eq!(unrehearsed.beyond(Some(50.0)).len(), 0);
    }

    #[test]
    fn a_row_says_what_was_not_survived() {
        let mut lost = row("unknown-flag", 0.0, 0);
        lost.result = Err(anyhow!("lost"));
        let mut out = Vec::new();
        write(&mut out, &[row("unknown-flag", 0.2, 9), lost], None).expect("written");
        let text = String::from_utf8(out).expect("text");
        assert!(
            text.contains("| refused; noticed after 3 s |") && text.contains("**not survived**"),
            "{text}"
        );
        assert!(text.ends_with("figure answer-after-power-cut-seconds-at-most 9\n"), "{text}");
    }
}
