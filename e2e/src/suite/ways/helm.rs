//! By Helm: docs/install-helm.md, and what else Helm does to a release.

use anyhow::{Result, ensure};

use super::Road;

const PAGE: &str = "docs/install-helm.md";

pub(super) fn run(road: &Road<'_>) -> Result<()> {
    let desk = road.desk("helm")?;
    desk.follow(PAGE, |heading, said| match heading {
        "Say what is to be recorded" => road.landed(),
        "See that events land" => {
            ensure!(said.contains("n1: an event landed at "), "the test tells no landed event");
            Ok(())
        }
        _ => Ok(()),
    })?;
    road.nothing_is_left()
}
