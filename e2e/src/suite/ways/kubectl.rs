//! By kubectl: docs/install-kubectl.md, and what kubectl says to objects that are wrong.

use anyhow::{Result, ensure};

use crate::suite::operator;

use super::{Road, admission};

const PAGE: &str = "docs/install-kubectl.md";

pub(super) fn run(road: &Road<'_>) -> Result<()> {
    let desk = road.desk("kubectl")?;
    desk.follow(PAGE, |heading, said| match heading {
        "Install" => admission::all(road.cluster),
        "Say what is to be recorded" => {
            ensure!(said.contains("default created (server dry run)"), "it was not tried first");
            Ok(())
        }
        "See what it would change" => {
            ensure!(said.contains("\n+    - --audit-policy-file="), "it shows no plan");
            operator::whole(road.cluster, &road.cluster.nodes[0], &[&road.original])
        }
        "Let it happen" => road.landed(),
        "See that events land" => {
            ensure!(said.contains(" Landed "), "it tells no landed event");
            ensure!(said.contains(r#""apiVersion":"audit.k8s.io/v1""#), "it shows no event");
            Ok(())
        }
        "Change it" => {
            ensure!(said.contains("+    profile: Metadata"), "it shows no difference");
            road.landed()
        }
        _ => Ok(()),
    })?;
    road.nothing_is_left()
}
