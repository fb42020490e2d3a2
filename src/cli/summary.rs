//! The table at the end of a run.

use lm4lv::Result;
use lm4lv::report::summary::Summary;
use lm4lv::sink::ScoreMean;

use super::{bytes, counted, duration, print, print_json, table, thousands};

/// Prints a run's summary to stdout: JSON if asked, else for people.
pub(crate) fn show(summary: &Summary, json: bool) -> Result<()> {
    match json {
        true => print_json(&document(summary)),
        false => print(&text(summary)),
    }
}

/// The summary as JSON, with what programs would otherwise have to compute.
fn document(summary: &Summary) -> serde_json::Value {
    let mut value = serde_json::to_value(summary).unwrap_or_default();
    value["failed_rows"] = summary.failed_rows().into();
    value["was_done"] = summary.was_done().into();
    if let Some(scores) = value["scores"].as_array_mut() {
        for (score, mean) in scores.iter_mut().zip(&summary.scores) {
            score["standard_error"] = mean.standard_error().into();
        }
    }
    value
}

fn text(summary: &Summary) -> String {
    let mut out = String::from("\n");
    let failed = summary.failed_rows();
    if summary.had_nothing_to_do() {
        out.push_str("nothing to do: the source has no rows for this run (an empty input, --shard or --limit, or a topic without new messages)\n");
        return out;
    }
    if summary.rows == 0 && summary.skipped > 0 && summary.rows_left == Some(0) {
        let positions = counted(summary.skipped, "position");
        out.push_str(&format!(
            "done: source.parquet.where matched none of {positions}; {} has no row of them\n",
            summary.dir
        ));
        return out;
    }
    if summary.was_done() {
        out.push_str(&format!(
            "all done already: {} rows were published to {}; nothing was written\n",
            thousands(summary.rows_before),
            summary.dir
        ));
    } else {
        out.push_str(&match summary.rows_left {
            Some(0) => format!("done: {} rows in {}\n", thousands(summary.rows_before + summary.rows), summary.dir),
            Some(left) => {
                format!("stopped with {} rows left in {}: run again to go on\n", thousands(left), summary.dir)
            }
            None => format!("stopped: {} rows in {}\n", thousands(summary.rows_before + summary.rows), summary.dir),
        });
        out.push_str(&table(&figures(summary), &[1]));
        if !summary.scores.is_empty() {
            out.push('\n');
            out.push_str(&table(&scores(&summary.scores), &[]));
        }
    }
    if failed > 0 {
        out.push('\n');
        let mut rows = vec![vec!["failed".to_owned(), "rows".to_owned(), "meaning".to_owned()]];
        for (code, n) in &summary.failed {
            rows.push(vec![code.as_str().to_owned(), thousands(*n), code.describe().to_owned()]);
        }
        out.push_str(&table(&rows, &[2]));
    }
    if !summary.failed_before.is_empty() {
        let rows = summary.failed_before.iter().map(|(code, n)| vec![code.clone(), thousands(*n)]);
        out.push_str("\nAmong them failed; read this dataset with `where: { status: [failed] }` to make those again\n");
        out.push_str(&table(&rows.collect::<Vec<_>>(), &[]));
    }
    if summary.new_inputs > 0 {
        let files = counted(summary.new_inputs, "input file");
        out.push_str(&format!("\n  {files} found that the plan does not have: `--extend` adds what is new\n"));
    }
    out.push('\n');
    if let Some(sheet) = &summary.sheet {
        out.push_str(&format!("  look at it  {sheet}\n"));
    }
    if !summary.dir.contains("://") {
        out.push_str(&format!("  load it     datasets.load_dataset({:?})\n", summary.dir));
    }
    out
}

fn figures(summary: &Summary) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    let before = match summary.rows_before {
        0 => String::new(),
        n => format!(", {} were there before", thousands(n)),
    };
    row("rows", format!("{} written{before}", thousands(summary.rows)));
    if summary.skipped > 0 {
        row("left out", format!("{} by source.parquet.where", counted(summary.skipped, "position")));
    }
    row("failed", thousands(summary.failed_rows()));
    row("output", format!("{} in {}", bytes(summary.bytes), counted(summary.parts, "part")));
    row("rate", format!("{:.1} images/s in {}", summary.rows_per_s, duration(summary.elapsed_s)));
    if let Some(batches) = &summary.batches {
        let each = batches.pieces as f64 / batches.count.max(1) as f64;
        let count = format!("{} batch{}", thousands(batches.count), if batches.count == 1 { "" } else { "es" });
        row(
            "restore",
            format!("busy {:.0} % between first and last batch, {count} of {each:.1}", batches.busy * 100.0),
        );
    }
    let busy: Vec<String> = summary
        .stages
        .iter()
        .map(|share| {
            let mark = match summary.limiting {
                Some("memory") if share.stage == "memory" => " (limits: raise run.memory_mib)",
                Some(stage) if share.stage == stage => " (limits)",
                _ => "",
            };
            format!("{} {:.0} %{mark}", share.stage, share.busy * 100.0)
        })
        .collect();
    if !busy.is_empty() {
        row("busy", busy.join(", "));
    }
    rows
}

fn scores(scores: &[ScoreMean]) -> Vec<Vec<String>> {
    let mut rows = vec![vec!["score".to_owned(), "mean".to_owned(), "± s.e.".to_owned(), "rows".to_owned()]];
    for score in scores {
        // SSIM lies in 0 to 1, PSNR around 20 to 40 dB.
        let digits = if score.column.contains("ssim") { 4 } else { 2 };
        let mean = if score.n == 0 { "–".to_owned() } else { format!("{:.digits$}", score.mean) };
        let error = score.standard_error().map_or("–".to_owned(), |error| format!("{error:.digits$}"));
        rows.push(vec![score.column.clone(), mean, error, thousands(score.n)]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use lm4lv::report::summary::StageShare;
    use lm4lv::sample::FailureCode;

    use super::*;

    fn summary() -> Summary {
        let mut psnr = ScoreMean::new("input_psnr_lm4lv");
        let mut ssim = ScoreMean::new("input_ssim_lm4lv");
        for (p, s) in [(23.0, 0.49), (24.0, 0.51)] {
            psnr.push(p);
            ssim.push(s);
        }
        Summary {
            dir: "out/quickstart".to_owned(),
            rows: 1_025,
            rows_left: Some(0),
            failed: [(FailureCode::NotFound, 2), (FailureCode::Corrupt, 1)].into(),
            parts: 2,
            bytes: 3 << 20,
            elapsed_s: 20.0,
            rows_per_s: 51.25,
            stages: vec![StageShare { stage: "load", busy: 0.1 }, StageShare { stage: "encode", busy: 0.96 }],
            limiting: Some("encode"),
            scores: vec![psnr, ssim],
            sheet: Some("out/quickstart/report/sheet.png".to_owned()),
            ..Summary::default()
        }
    }

    #[test]
    fn the_table_reads_well() {
        let expected = r#"
done: 1,025 rows in out/quickstart
  rows    1,025 written
  failed  3
  output  3.0 MiB in 2 parts
  rate    51.2 images/s in 20.0 s
  busy    load 10 %, encode 96 % (limits)

  score              mean  ± s.e.  rows
  input_psnr_lm4lv  23.50    0.50     2
  input_ssim_lm4lv 0.5000  0.0100     2
"#;
        let shown = text(&summary());
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeeze(&shown).starts_with(&squeeze(expected)), "{shown}");
        for part in [
            "not_found",
            "corrupt",
            "look at it  out/quickstart/report/sheet.png",
            "datasets.load_dataset(\"out/quickstart\")",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn a_second_run_says_that_all_is_done() {
        let summary = Summary { dir: "out/q".to_owned(), rows_before: 25, rows_left: Some(0), ..Summary::default() };
        assert!(text(&summary).contains("all done already: 25 rows were published to out/q; nothing was written"));
        assert_eq!(document(&summary)["was_done"], true);
    }

    #[test]
    fn a_filter_that_matches_nothing_is_told() {
        let summary = Summary { dir: "out/q".to_owned(), skipped: 60, rows_left: Some(0), ..Summary::default() };
        assert!(text(&summary).contains("where matched none of 60 positions"), "{}", text(&summary));
        assert!(!summary.was_done() && !summary.had_nothing_to_do());
    }

    #[test]
    fn programs_get_the_same_figures() {
        let document = document(&summary());
        assert_eq!(document["failed"]["not_found"], 2);
        assert_eq!(document["failed_rows"], 3);
        assert_eq!(document["scores"][0]["mean"], 23.5);
        assert_eq!(document["scores"][0]["standard_error"], 0.5);
        assert_eq!(document["limiting"], "encode");
    }
}
