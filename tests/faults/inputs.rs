//! Inputs and settings that are not those of the plan any more.

use std::path::Path;

use crate::common::{VOLATILE, expect, photographs, rows, strings, write_parquet};

const N: usize = 40;

fn list(path: &Path, names: &[String]) {
    let names: Vec<_> = names.iter().map(|name| Some(name.as_str())).collect();
    write_parquet(path, vec![("path", strings(&names))]);
}

fn pipeline(dir: &Path, name: &str, out: &str, more: &str) {
    let text = format!(
        "source: {{ parquet: {{ path: photos/refs.parquet, rows_per_partition: 10 }} }}\n\
         degrade: {{ recipe: [ {{ gaussian_noise: {{ sigma: 25 }} }} ] }}\n\
         sink: {{ dir: {out}, rows_per_part: 5 }}\nrun: {{ workers: 2, progress: none }}\n{more}"
    );
    std::fs::write(dir.join(name), text).unwrap();
}

fn stops(dir: &Path, args: &[&str], code: i32, said: &[&str]) {
    let output = expect(dir, args, code);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.starts_with("error: ") && text.matches("error:").count() == 1, "{text}");
    assert!(said.iter().all(|word| text.contains(word)), "{said:?}: {text}");
}

#[test]
fn a_changed_input_stops_the_run_and_the_old_one_lets_it_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let names = photographs(&dir.join("photos"), N, 40);
    let refs = dir.join("photos/refs.parquet");
    list(&refs, &names);
    pipeline(dir, "calm.yaml", "calm", "");
    pipeline(dir, "p.yaml", "out", "");
    expect(dir, &["run", "calm.yaml"], 0);
    expect(dir, &["run", "p.yaml", "--limit", "20"], 0);
    let before = rows(&dir.join("out"), VOLATILE);
    let original = std::fs::read(&refs).unwrap();
    // Of the same rows in another order, of fewer rows, of none, and gone.
    let mut turned = names.clone();
    turned.reverse();
    for changed in [&turned[..], &names[..30], &[]] {
        list(&refs, changed);
        stops(dir, &["run", "p.yaml"], 3, &["photos/refs.parquet", "the file changed"]);
    }
    std::fs::remove_file(&refs).unwrap();
    stops(dir, &["run", "p.yaml"], 3, &["photos/refs.parquet", "has gone"]);
    assert_eq!(rows(&dir.join("out"), VOLATILE), before, "no row was written meanwhile");
    std::fs::write(&refs, original).unwrap();
    expect(dir, &["run", "p.yaml"], 0);
    expect(dir, &["verify", "out", "--complete"], 0);
    assert_eq!(rows(&dir.join("out"), VOLATILE), rows(&dir.join("calm"), VOLATILE));
}

/// One changed image of a frozen list is its own row's failure.
#[test]
fn a_changed_image_is_one_row() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    photographs(&dir.join("photos"), N, 40);
    pipeline(dir, "p.yaml", "out", "");
    let text = std::fs::read_to_string(dir.join("p.yaml")).unwrap();
    let text = text.replace("parquet: { path: photos/refs.parquet", "folder: { path: photos");
    std::fs::write(dir.join("p.yaml"), text).unwrap();
    expect(dir, &["run", "p.yaml", "--limit", "20"], 0);
    let longer = [std::fs::read(dir.join("photos/0030.jpg")).unwrap(), b"more".to_vec()].concat();
    std::fs::write(dir.join("photos/0030.jpg"), longer).unwrap();
    std::fs::remove_file(dir.join("photos/0031.jpg")).unwrap();
    expect(dir, &["run", "p.yaml"], 0);
    let failed: Vec<_> = rows(&dir.join("out"), &[])
        .into_values()
        .filter(|row| row["status"] == "failed")
        .map(|row| (row["key"].clone(), row["error_code"].clone()))
        .collect();
    assert_eq!(failed, [("0030.jpg", "source_changed"), ("0031.jpg", "not_found")].map(|(k, c)| (k.into(), c.into())));
    expect(dir, &["verify", "out", "--complete"], 0);
}

#[test]
fn another_schema_in_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let names = photographs(&dir.join("photos"), N, 40);
    list(&dir.join("photos/refs.parquet"), &names);
    pipeline(dir, "calm.yaml", "calm", "");
    pipeline(dir, "p.yaml", "out", "");
    expect(dir, &["run", "calm.yaml"], 0);
    expect(dir, &["run", "p.yaml", "--limit", "20"], 0);
    let before = rows(&dir.join("out"), VOLATILE);
    let refused = |set: &str, said: &[&str]| stops(dir, &["run", "p.yaml", "--set", set], 2, said);
    refused("score=[psnr.lm4lv]", &["other columns", "psnr.lm4lv", "another sink.dir"]);
    refused("degrade.seed=8", &["other settings", "degrade.seed: 0 → 8", "--accept-change 1"]);
    // Other columns cannot be accepted either.
    stops(
        dir,
        &["run", "p.yaml", "--set", "score=[psnr.lm4lv]", "--accept-change", "1"],
        2,
        &["other columns", "another sink.dir"],
    );
    assert_eq!(rows(&dir.join("out"), VOLATILE), before, "no row was written meanwhile");
    expect(dir, &["run", "p.yaml"], 0);
    assert_eq!(rows(&dir.join("out"), VOLATILE), rows(&dir.join("calm"), VOLATILE));
}
