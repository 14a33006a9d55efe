//! The health checks of `deploy/argocd`, judged by Argo CD's own program: each object of their tests, in the form in which
//! Argo CD's tree has them, by the ConfigMap that people paste.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_yaml::Value;

use crate::progress::say;
use crate::run::output;
use crate::suite::ways::page::top;

/// One case of a health_test.yaml.
#[derive(Debug, PartialEq, Eq)]
struct Case {
    input: String,
    status: String,
    message: String,
}

pub(super) fn all(argocd: &Path) -> Result<()> {
    let folder = top().join("deploy/argocd");
    let group = folder.join("resource_customizations/audit-operator.dev");
    let mut judged = 0;
    for kind in fs::read_dir(&group).with_context(|| format!("reading {}", group.display()))? {
        let kind = kind?.path();
        for case in cases(&fs::read_to_string(kind.join("health_test.yaml"))?)? {
            let mut command = Command::new(argocd);
            command.args(["admin", "settings", "resource-overrides", "health"]).arg(kind.join(&case.input));
            command.arg("--argocd-cm-path").arg(folder.join("argocd-cm.yaml"));
            let said = output(&mut command)?;
            let expected = format!("STATUS: {}\nMESSAGE: {}\n", case.status, case.message);
            ensure!(said == expected, "{}: it says\n{said}and not\n{expected}", case.input);
            judged += 1;
        }
    }
    ensure!(judged > 0, "no case below {}", group.display());
    say!("{judged} objects are as healthy as their tests say");
    Ok(())
}

fn cases(tests: &str) -> Result<Vec<Case>> {
    let tests: Value = serde_yaml::from_str(tests)?;
    let tests = tests["tests"].as_sequence().context("no tests")?;
    let text =
        |value: &Value| value.as_str().map(str::to_owned).context("a test without a text that it needs");
    let case = |test: &Value| {
        let health = &test["healthStatus"];
        Ok(Case {
            input: text(&test["inputPath"])?,
            status: text(&health["status"])?,
            message: text(&health["message"])?,
        })
    };
    tests.iter().map(case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_read_in_the_form_of_argo_cd() {
        let tests = "tests:\n- healthStatus:\n    status: Healthy\n    message: all is well\n  inputPath: testdata/a.yaml\n";
        let text = str::to_owned;
        let case =
            Case { input: text("testdata/a.yaml"), status: text("Healthy"), message: text("all is well") };
        assert_eq!(cases(tests).expect("the form"), [case]);
        assert!(cases("tests:\n- inputPath: a\n").is_err(), "no expectation");
    }
}
