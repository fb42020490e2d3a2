//! Any files in `.lm4lv` are a plan whose partitions cover its rows, or are refused; in bounded memory.

use lm4lv::Error;
use lm4lv::plan::{Opened, Plan};

use super::{folder, memory, put, wait};

/// Memory besides the files' own.
const OVERHEAD: u64 = 24 << 20;

/// Reads a plan: between NUL characters stand `plan.json`, two extensions, two changes, and a folder's list, whose name is
/// put in place of `LIST`.
pub fn plan(data: &[u8]) {
    let folder = folder();
    let files: Vec<&[u8]> = data.split(|byte| *byte == 0).collect();
    let list = files.get(5).copied().unwrap_or_default();
    let list_name = format!("listing-{}.jsonl.zst", blake3::hash(list).to_hex());
    wait(async {
        // A list that is no list lies there as it is.
        let packed = if list.starts_with(b"!") { list[1..].to_vec() } else { zstd::encode_all(list, 1).unwrap() };
        put(&folder, &format!(".lm4lv/{list_name}"), packed).await;
        for (name, file) in
            ["plan.json", "plan-000001.json", "plan-000002.json", "change-1.json", "change-2.json"].iter().zip(&files)
        {
            if !file.is_empty() || *name == "plan.json" {
                let file = String::from_utf8_lossy(file).replace("LIST", &list_name);
                put(&folder, &format!(".lm4lv/{name}"), file).await;
            }
        }
    });
    let (opened, peak) = memory::peak(|| wait(Opened::read(&folder)));
    assert!(peak <= OVERHEAD + 64 * data.len() as u64, "{peak} bytes for {}", data.len());
    let opened = match opened {
        Ok(opened) => opened.unwrap(),
        // Of a newer program, or damaged; never a store that is silent.
        Err(Error::Config(why) | Error::DataLoss(why)) => return assert!(why.contains("memory://folder"), "{why}"),
        Err(other) => panic!("{other:?}"),
    };
    let text = serde_json::to_vec(&opened.plan).unwrap();
    assert_eq!(serde_json::from_slice::<Plan>(&text).unwrap(), opened.plan);
    let again = wait(Opened::read(&folder)).unwrap().unwrap();
    assert_eq!((&again.plan, &again.inputs, &again.content_hash), (&opened.plan, &opened.inputs, &opened.content_hash));
    wait(opened.check_current(&folder)).unwrap();
    opened.default_root();
    assert_eq!(opened.source_identity().len(), 64);

    // Partitions lie side by side, in order, and cover all rows; shards are a partition of the partitions.
    let limit = opened.rows().min(1000);
    let few: u64 = opened.inputs.iter().map(|input| input.rows.div_ceil(input.rows_per_partition)).sum();
    let limit = if few <= 1000 { None } else { Some(limit) };
    let all = opened.partitions(None, limit);
    assert_eq!(all.iter().map(|p| p.rows).sum::<u64>(), limit.unwrap_or(opened.rows()));
    let mut next = (0, 0);
    for p in &all {
        if p.input != next.0 {
            assert!(p.input > next.0);
            next = (p.input, 0);
        }
        assert_eq!((p.first_row, p.path.as_ref()), (next.1, opened.inputs[p.input].path.as_str()));
        assert!(0 < p.rows && p.rows <= p.planned_rows && p.planned_rows <= opened.inputs[p.input].rows_per_partition);
        next.1 += p.planned_rows;
    }
    let mut shards: Vec<_> = (0..3).flat_map(|shard| opened.partitions(Some((shard, 3)), limit)).collect();
    shards.sort_by_key(|p| (p.input, p.first_row));
    assert_eq!(shards, all);
}
