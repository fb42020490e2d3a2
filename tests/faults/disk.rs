//! Local disks that are full, or not ours to write to.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{VOLATILE, expect, parts, photographs, root, rows};

fn pipeline(dir: &Path, name: &str, out: &str) {
    let text = format!(
        "source: {{ folder: {{ path: photos, rows_per_partition: 20 }} }}\n\
         degrade: {{ recipe: [ {{ gaussian_noise: {{ sigma: 25 }} }} ] }}\n\
         sink: {{ dir: {out}, rows_per_part: 5 }}\nrun: {{ workers: 2, progress: none }}\n"
    );
    std::fs::write(dir.join(name), text).unwrap();
}

#[test]
fn a_full_disk_stops_the_run_and_room_lets_it_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Large enough that parts are published while others are made.
    photographs(&dir.join("photos"), 60, 160);
    std::fs::create_dir(dir.join("small")).unwrap();
    pipeline(dir, "calm.yaml", "calm");
    pipeline(dir, "full.yaml", "small/dataset");
    expect(dir, &["run", "calm.yaml"], 0);
    // How many parts stood when the disk was full is a matter of timing; with none there is less to see.
    for tries in 1.. {
        let output = Command::new(root().join("scripts/full_disk.sh"))
            .args([env!("CARGO_BIN_EXE_lm4lv"), "full.yaml", "small", "copy"])
            .current_dir(dir)
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.code() == Some(77) {
            eprintln!("skipped: {said}");
            return;
        }
        assert!(output.status.success(), "{said}");
        if !said.starts_with("0 parts") {
            break;
        }
        assert!(tries < 10, "{said}");
        std::fs::remove_dir_all(dir.join("copy")).unwrap();
    }
    assert_eq!(rows(&dir.join("copy"), VOLATILE), rows(&dir.join("calm"), VOLATILE));
}

/// A user who is not root, whom modes concern: ourselves, or `nobody`. `None` says why not.
fn as_somebody(dir: &Path, args: &[&str]) -> Option<Output> {
    let binary = env!("CARGO_BIN_EXE_lm4lv");
    let id = Command::new("id").arg("-u").output().unwrap();
    let mut command = if id.stdout == b"0\n" {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", binary]);
        command
    } else {
        Command::new(binary)
    };
    let output = command.args(args).current_dir(dir).env("LM4LV_LOG", "warn").output();
    let ran = output.as_ref().is_ok_and(|output| ![126, 127].contains(&output.status.code().unwrap_or(127)));
    if !ran {
        eprintln!("skipped: root cannot run {binary} as another user here: {output:?}");
        return None;
    }
    output.ok()
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn stops(output: &Output, path: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(74), "{said}");
    assert!(said.lines().count() == 1 && said.starts_with(&format!("error: {path}")), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
}

#[test]
fn a_folder_that_may_not_be_written_stops_the_run_and_permission_lets_it_go_on() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    set_mode(dir, 0o755);
    photographs(&dir.join("photos"), 60, 40);
    pipeline(dir, "calm.yaml", "calm");
    pipeline(dir, "p.yaml", "place/out");
    expect(dir, &["run", "calm.yaml"], 0);
    let place = dir.join("place");
    std::fs::create_dir(&place).unwrap();
    set_mode(&place, 0o555);
    let Some(output) = as_somebody(dir, &["run", "p.yaml"]) else { return };
    stops(&output, "place/out");
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    // Some of the rows, and then nothing more may be written among them.
    set_mode(&place, 0o777);
    let output = as_somebody(dir, &["run", "p.yaml", "--limit", "20"]).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let data = place.join("out/data");
    set_mode(&data, 0o555);
    stops(&as_somebody(dir, &["run", "p.yaml"]).unwrap(), "place/out/data/");
    assert_eq!(rows(&place.join("out"), VOLATILE).len(), 20);
    // Nor into the folder for what is in work.
    set_mode(&data, 0o777);
    let scratch = place.join("out/.lm4lv/scratch");
    set_mode(&scratch, 0o555);
    stops(&as_somebody(dir, &["run", "p.yaml"]).unwrap(), "place/out/.lm4lv/scratch");
    set_mode(&scratch, 0o777);
    let output = as_somebody(dir, &["run", "p.yaml"]).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    expect(dir, &["verify", "place/out", "--complete"], 0);
    assert_eq!(rows(&place.join("out"), VOLATILE), rows(&dir.join("calm"), VOLATILE));
}

/// An image that may not be read is one row; a source that may not be listed is a run that stops.
#[test]
fn inputs_that_may_not_be_read() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    set_mode(dir, 0o777);
    photographs(&dir.join("photos"), 10, 40);
    pipeline(dir, "p.yaml", "out");
    set_mode(&dir.join("photos/0003.jpg"), 0);
    let Some(output) = as_somebody(dir, &["run", "p.yaml"]) else { return };
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let failed: Vec<_> = rows(&dir.join("out"), &[]).into_values().filter(|row| row["status"] == "failed").collect();
    assert_eq!((failed.len(), failed[0]["error_code"].as_str(), failed[0]["key"].as_str()), (1, "io", "0003.jpg"));
    set_mode(&dir.join("photos"), 0);
    pipeline(dir, "q.yaml", "other");
    stops(&as_somebody(dir, &["run", "q.yaml"]).unwrap(), "photos");
    assert!(parts(&dir.join("other")).is_empty());
    set_mode(&dir.join("photos"), 0o755);
}
