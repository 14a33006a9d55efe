//! Puts audit settings into a manifest and takes them out again: plan, splice, guard.

use super::plan::{self, Plan};
use super::pod::Pod;
use super::{Existing, REVISION_ANNOTATION, Refusal, Refusals, Settings, guard, splice, tree};

/// The manifest with the wanted settings, and with every line that need not change as it was.
///
/// Idempotent: `patch` of its own result changes nothing. [`unpatch`] of its result is `text`, byte for byte, when
/// `text` had no audit settings. Every refusal there is comes back at once, and then there is no text to write.
pub fn patch(text: &str, wanted: &Settings, existing: Existing) -> Result<String, Refusals> {
    let plan = |pod: &Pod<'_>| plan::toward(pod, wanted, existing);
    edit(text, plan, |pod| plan::toward(pod, wanted, existing).is_ok_and(|rest| rest.is_empty()))
}

/// The manifest without audit settings, if they are ours; unchanged without [`REVISION_ANNOTATION`], also when it
/// would be refused otherwise.
///
/// Removes every `--audit-*` flag, the mounts that serve them and their volumes unless something else uses them, and
/// the annotation. What was adopted or taken over goes as well; the bytes from before are in the backup.
pub fn unpatch(text: &str) -> Result<String, Refusals> {
    let is_ours = |pod: &Pod<'_>| pod.annotation(REVISION_ANNOTATION).is_some();
    let plan = |pod: &Pod<'_>| Ok(if is_ours(pod) { plan::away(pod) } else { Plan::default() });
    let result = edit(text, plan, |pod| !is_ours(pod) && pod.audit_flags().next().is_none());
    if text.contains(REVISION_ANNOTATION) { result } else { result.or_else(|_| Ok(text.to_owned())) }
}

/// `reached` says of the edited Pod, read anew, whether it is what was wanted.
fn edit(
    text: &str,
    plan: impl Fn(&Pod<'_>) -> Result<Plan, Refusals>,
    reached: impl Fn(&Pod<'_>) -> bool,
) -> Result<String, Refusals> {
    // With a line break at the end, and taken away again, the last line is like any other.
    let eol = if text.split_inclusive('\n').next().is_some_and(|line| line.ends_with("\r\n")) {
        "\r\n"
    } else {
        "\n"
    };
    let old = format!("{text}{eol}");
    let root = tree::parse(&old)?;
    let pod = Pod::locate(&root)?;
    let plan = plan(&pod)?;
    if plan.is_empty() {
        return Ok(text.to_owned());
    }
    let splices = splice::splices(&old, &pod, &plan)?;
    let new = splice::apply(&old, &splices);
    guard::check_lines(&old, &new, &splices)?;
    let Some(result) = new.strip_suffix(eol) else {
        return Err(Refusal::new("guard", None, "the end of the edited manifest is not as it was").into());
    };
    guard::check_meaning(text, result, &pod, &plan)?;
    let root = tree::parse(&new)?;
    if !reached(&Pod::locate(&root)?) {
        let message = "the edited manifest is not what was wanted, and was dropped";
        return Err(Refusal::new("guard", None, message).into());
    }
    Ok(result.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::plan::Annotation;
    use super::*;

    #[test]
    fn an_edit_that_does_not_reach_what_was_wanted_is_dropped() {
        let text = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{command: [kube-apiserver]}]}}";
        let plan =
            |_: &Pod<'_>| Ok(Plan { annotation: Some(Annotation::Set("x".to_owned())), ..Plan::default() });
        let result = |reached: bool| edit(text, plan, |_| reached).map_err(|refusals| refusals.0[0].code);
        assert!(result(true).is_ok_and(|new| new != text));
        assert_eq!(result(false), Err("guard"));
    }
}
