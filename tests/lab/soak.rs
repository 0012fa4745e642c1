//! `scripts/soak.sh`: what fails in it keeps nothing else from being run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::runs::Folder;

/// Stands for cargo: notes what it is asked for, and fails at all but the first.
const FAILS: &str = r#"#!/bin/sh
echo "$*" >>"$SOAK_ASKED"
[ "$(wc -l <"$SOAK_ASKED")" -eq 1 ]
"#;

#[test]
fn everything_is_run_and_what_failed_is_listed_at_the_end() {
    let folder = Folder::new();
    let (cargo, asked) = (folder.path("cargo"), folder.path("asked"));
    fs::write(&cargo, FAILS).expect("a file can be written");
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let path = std::env::var("PATH").expect("there is a path");
    let soak = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/soak.sh");
    let output = Command::new(soak)
        .arg("2")
        .env("PATH", format!("{}:{path}", folder.root().display()))
        .env("SOAK_ASKED", &asked)
        .output()
        .expect("a script can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let asked = fs::read_to_string(asked).expect("cargo was asked");
    for measurement in ["swap_soak", "neighbours_soak", "price", "injection"] {
        assert!(
            asked.contains(&format!("--test lab {measurement} ")),
            "{asked}"
        );
    }
    let listed: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("soak: failed: "))
        .collect();
    let expected = [
        "round 1 of 2",
        "round 2 of 2",
        "prices",
        "swap_soak",
        "neighbours_soak",
        "probes",
        "price",
        "injection",
    ];
    assert_eq!(listed, expected, "{said}");
}
