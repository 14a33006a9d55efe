//! The few things the guards read in the documents: tables by heading, and marked code blocks.

/// A document of the repository.
pub(crate) fn document(path: &str) -> String {
    std::fs::read_to_string(crate::source::root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The rows of the first table under a heading, cells without back ticks and outer blanks, the head left out.
pub(crate) fn table(document: &str, heading: &str) -> Vec<Vec<String>> {
    let below = document.lines().skip_while(|line| *line != heading).skip(1);
    let section = below.take_while(|line| !line.starts_with('#'));
    let table = section.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let rows: Vec<Vec<String>> = table.skip(2).map(cells).collect();
    assert!(!rows.is_empty(), "no table under `{heading}`");
    rows
}

fn cells(row: &str) -> Vec<String> {
    row.trim_matches('|').split(" | ").map(|cell| cell.trim().replace('`', "")).collect()
}

/// The `yaml` blocks marked `<!-- recipe: NAME -->` on the line before, as (name, text), in order.
pub(crate) fn recipes(document: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("<!-- recipe: ").and_then(|l| l.strip_suffix(" -->")) else {
            continue;
        };
        assert_eq!(lines.next(), Some("```yaml"), "recipe {name} is not followed by a yaml block");
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        found.push((name.to_owned(), text.join("\n") + "\n"));
    }
    found
}

#[test]
fn tables_and_recipes_are_read() {
    let text = "# A\n| no |\n|--|\n| x |\n## B\ntext\n| a | b |\n| - | - |\n| `x` | y, z |\n\n<!-- recipe: r -->\n```yaml\na: 1\n```\n";
    assert_eq!(table(text, "## B"), [["x", "y, z"]]);
    assert_eq!(recipes(text), [("r".to_owned(), "a: 1\n".to_owned())]);
}
