//! One promise a test.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int32Type;
use bytes::Bytes;
use futures::TryStreamExt;
use lm4lv::Error;
use lm4lv::checkpoint::Partition;
use lm4lv::sink::chain::Chain;
use lm4lv::sink::footer::part_name;
use lm4lv::sink::read::StoredPart;
use lm4lv::sink::{Dataset, Notice, Published};
use lm4lv::store::Folder;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::bucket::store;
use crate::setup::{Setup, dataset, notices, p, published, remote, start};

#[tokio::test]
async fn rows_arrive_in_any_order_and_stand_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for folder in [Folder::Local(dir.path().to_owned()), remote(store())] {
        let setup = Setup { variants: 3, ..Setup::on(folder) };
        let mut sink = setup.started().await;
        sink.end(&p(), 1, 25, 25).unwrap();
        for seq in (0..25).rev() {
            sink.accept(setup.item(1, seq, seq)).unwrap();
        }
        let notices = notices(&mut sink).await;
        // 10 rows a part, cut between positions of 3 rows.
        assert_eq!(published(&notices).iter().map(|p| p.end).collect::<Vec<_>>(), [4, 8, 12, 16, 20, 24, 25]);
        let (rows, _) = setup.rows().await;
        let expected: Vec<_> = (0..25).flat_map(|offset| (0..3).map(move |variant| (offset, variant))).collect();
        assert_eq!(rows, expected);
        let report = setup.verify(25, true).await;
        assert_eq!((report.faults, report.rows, report.complete, report.parts), (vec![], 75, 1, 7));
    }
    drop(dir);
}

#[tokio::test]
async fn a_row_holds_what_the_item_held() {
    let setup = Setup { variants: 2, ..Setup::remote() };
    let mut sink = setup.started().await;
    sink.accept(setup.item(1, 0, 0)).unwrap();
    sink.accept(setup.failed(1, 1, 1, 0)).unwrap();
    sink.end(&p(), 1, 2, 2).unwrap();
    sink.settle(0);
    notices(&mut sink).await;
    let part = StoredPart::open(&setup.folder, &part_name(&p(), 0)).await.unwrap().unwrap();
    let batches: Vec<_> = part.rows(&[], 100).unwrap().try_collect().await.unwrap();
    let batch = &batches[0];
    let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
    assert_eq!(text("key").iter().flatten().collect::<Vec<_>>(), ["key 0", "key 0", "key 1", "key 1"]);
    assert_eq!(text("status").iter().flatten().collect::<Vec<_>>(), ["success", "success", "failed", "failed"]);
    assert_eq!(text("error_code").value(2), "server_error");
    assert_eq!(text("url").value(3), "images/1.jpg");
    let image = batch.column_by_name("input").unwrap().as_struct();
    assert_eq!((image.is_valid(1), image.is_valid(2)), (true, false));
    assert_eq!(image.column_by_name("path").unwrap().as_string::<i32>().value(1), "key 0.v1.png");
    assert_eq!(image.column_by_name("bytes").unwrap().as_binary::<i32>().value(0), [0; 100]);
    let width = batch.column_by_name("width").unwrap().as_primitive::<Int32Type>();
    assert_eq!((width.value(0), width.is_null(2)), (8, true));
    assert_eq!(batch.column_by_name("ops").unwrap().as_list::<i32>().value_length(0), 0);
    let keys: Vec<_> =
        part.metadata().file_metadata().key_value_metadata().unwrap().iter().map(|k| k.key.as_str()).collect();
    assert!(keys.contains(&"huggingface") && keys.contains(&"lm4lv.part"), "{keys:?}");
    assert_eq!((part.footer().failed, part.footer().variants, part.footer().rows), (2, 2, 4));
}

#[tokio::test]
async fn a_second_run_goes_on_where_the_chain_ends() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::on(Folder::Local(dir.path().to_owned()));
    let mut sink = setup.started().await;
    for seq in 0..14 {
        sink.accept(setup.item(1, seq, seq)).unwrap();
    }
    // A full part gets published; the open one dies with the process.
    assert!(matches!(sink.next().await.unwrap(), Notice::Published(Published { from: 0, end: 10, .. })));
    drop(sink);
    let mut sink = setup.sink();
    assert_eq!(start(&mut sink, 1).await, 10);
    for seq in 0..4 {
        sink.accept(setup.item(1, seq, 10 + seq)).unwrap();
    }
    sink.end(&p(), 1, 4, 14).unwrap();
    notices(&mut sink).await;
    assert_eq!(setup.rows().await.1, [(0, 10), (10, 14)]);
    assert!(setup.verify(14, true).await.faults.is_empty());
    // All done: a third has nothing to do.
    drop(sink);
    let mut sink = setup.sink();
    assert_eq!(start(&mut sink, 1).await, 14);
    sink.end(&p(), 1, 0, 14).unwrap();
    assert!(notices(&mut sink).await.is_empty());
    assert_eq!(std::fs::read_dir(setup.scratch.path()).unwrap().count(), 2, "this sink's scratch and lock only");
}

#[tokio::test]
async fn gaps_are_skipped_positions_and_a_trailing_one_gets_a_part_without_rows() {
    let setup = Setup { rows_per_part: 2, ..Setup::remote() };
    let mut sink = setup.started().await;
    for (seq, offset) in [(0, 3), (1, 5), (2, 9), (3, 10)] {
        sink.accept(setup.item(1, seq, offset)).unwrap();
    }
    sink.end(&p(), 1, 4, 20).unwrap();
    let notices = notices(&mut sink).await;
    let spans: Vec<_> = published(&notices).iter().map(|p| (p.from, p.end, p.rows, p.skipped)).collect();
    assert_eq!(spans, [(0, 6, 2, 4), (6, 11, 2, 3), (11, 20, 0, 9)]);
    let part = StoredPart::open(&setup.folder, &part_name(&p(), 11)).await.unwrap().unwrap();
    assert_eq!((part.metadata().num_row_groups(), part.footer().first), (0, None));
    assert!(part.footer().reason.is_some());
    let report = setup.verify(20, true).await;
    assert_eq!((report.faults, report.skipped), (vec![], 16));
}

#[tokio::test]
async fn a_partition_without_any_row_is_one_part() {
    let setup = Setup::remote();
    let mut sink = setup.started().await;
    sink.end(&p(), 1, 0, 5).unwrap();
    assert_eq!(published(&notices(&mut sink).await).len(), 1);
    assert!(setup.verify(5, true).await.faults.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_old_part_is_closed() {
    let setup = Setup::remote();
    let mut sink = setup.started().await;
    sink.accept(setup.item(1, 0, 0)).unwrap();
    let begin = tokio::time::Instant::now();
    assert!(matches!(sink.next().await.unwrap(), Notice::Published(Published { end: 1, .. })));
    assert_eq!(begin.elapsed().as_secs(), 300);
}

#[tokio::test]
async fn a_foreign_part_ends_the_epoch_and_the_chain_goes_on_behind_it() {
    let setup = Setup::remote();
    let (mut one, mut other) = (setup.started().await, setup.started().await);
    for seq in 0..15 {
        one.accept(setup.item(1, seq, seq)).unwrap();
    }
    for seq in 0..7 {
        other.accept(setup.item(1, seq, seq)).unwrap();
    }
    other.end(&p(), 1, 7, 7).unwrap();
    notices(&mut other).await;
    let Notice::Restart { chain, foreign: true } = one.next().await.unwrap() else { panic!("no conflict") };
    assert_eq!(chain.end(), 7);
    // Rows of the old epoch change nothing, neither before the new start nor after.
    one.accept(setup.item(1, 15, 15)).unwrap();
    one.start(chain, 2).unwrap();
    one.accept(setup.item(1, 16, 16)).unwrap();
    for seq in 0..8 {
        one.accept(setup.item(2, seq, 7 + seq)).unwrap();
    }
    one.end(&p(), 1, 17, 17).unwrap();
    one.end(&p(), 2, 8, 15).unwrap();
    notices(&mut one).await;
    assert_eq!(setup.rows().await.0, (0..15).map(|offset| (offset, 0)).collect::<Vec<_>>());
    assert_eq!(setup.rows().await.1, [(0, 7), (7, 15)]);
}

#[tokio::test(start_paused = true)]
async fn after_five_foreign_wins_a_start_waits() {
    let setup = Setup { rows_per_part: 1, ..Setup::remote() };
    let mut one = setup.started().await;
    let mut waited = Vec::new();
    for round in 0..12u64 {
        let mut other = setup.sink();
        let at = start(&mut other, 1).await;
        other.accept(setup.item(1, 0, at)).unwrap();
        notices(&mut other).await;
        let begin = tokio::time::Instant::now();
        one.accept(setup.item(round + 1, 0, at)).unwrap();
        let Notice::Restart { chain, .. } = one.next().await.unwrap() else { panic!("no conflict") };
        waited.push(begin.elapsed().as_secs());
        one.start(chain, round + 2).unwrap();
    }
    assert_eq!(waited, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
}

#[tokio::test]
async fn a_drain_publishes_what_is_in_order_and_stops() {
    let setup = Setup::remote();
    let mut sink = setup.started().await;
    for seq in [0, 1, 2, 4, 5] {
        sink.accept(setup.item(1, seq, seq)).unwrap();
    }
    sink.drain().unwrap();
    sink.accept(setup.item(1, 3, 3)).unwrap();
    let notices = notices(&mut sink).await;
    assert_eq!(published(&notices).iter().map(|p| (p.from, p.end)).collect::<Vec<_>>(), [(0, 3)]);
    assert_eq!(setup.verify(6, false).await.missing, 3);
}

#[tokio::test]
async fn a_revoked_partition_is_released_where_its_part_ends() {
    let setup = Setup::remote();
    let mut sink = setup.started().await;
    for seq in 0..4 {
        sink.accept(setup.item(1, seq, seq)).unwrap();
    }
    assert!(sink.revoke(&p()).unwrap());
    sink.accept(setup.item(1, 4, 4)).unwrap();
    assert!(matches!(sink.next().await.unwrap(), Notice::Published(Published { end: 4, .. })));
    assert!(matches!(sink.next().await.unwrap(), Notice::Released { .. }));
    assert!(!sink.revoke(&p()).unwrap(), "it is not ours any more");
    // It comes back with another epoch.
    assert_eq!(start(&mut sink, 2).await, 4);
    sink.accept(setup.item(1, 4, 4)).unwrap();
    sink.accept(setup.item(2, 0, 4)).unwrap();
    sink.end(&p(), 2, 1, 5).unwrap();
    notices(&mut sink).await;
    assert_eq!(setup.rows().await.0.len(), 5);
}

#[tokio::test]
async fn a_provisional_row_holds_its_part_until_it_is_settled() {
    let setup = Setup { rows_per_part: 2, ..Setup::remote() };
    let mut sink = setup.started().await;
    sink.accept(setup.item(1, 0, 0)).unwrap();
    sink.accept(setup.item(1, 1, 1)).unwrap();
    sink.accept(setup.failed(1, 2, 2, 41)).unwrap();
    sink.accept(setup.item(1, 3, 3)).unwrap();
    sink.accept(setup.item(1, 4, 4)).unwrap();
    assert_eq!(sink.provisional(), [p()]);
    assert!(matches!(sink.next().await.unwrap(), Notice::Published(Published { end: 2, .. })));
    assert!(tokio::time::timeout(Duration::from_millis(50), sink.next()).await.is_err(), "held back");
    sink.settle(40);
    assert!(tokio::time::timeout(Duration::from_millis(50), sink.next()).await.is_err(), "still");
    sink.settle(41);
    assert!(matches!(sink.next().await.unwrap(), Notice::Published(Published { end: 4, failed: 1, .. })));
    assert!(sink.provisional().is_empty());
}

#[tokio::test]
async fn a_drain_cuts_before_the_first_provisional_row() {
    let setup = Setup { variants: 2, ..Setup::remote() };
    let mut sink = setup.started().await;
    for seq in 0..20 {
        let item = match seq {
            2 => setup.failed(1, seq, seq, 1),
            8 => setup.failed(1, seq, seq, 2),
            _ => setup.item(1, seq, seq),
        };
        sink.accept(item).unwrap();
    }
    sink.settle(1);
    sink.drain().unwrap();
    let notices = notices(&mut sink).await;
    let spans: Vec<_> = published(&notices).iter().map(|p| (p.from, p.end, p.rows, p.failed)).collect();
    assert_eq!(spans, [(0, 5, 10, 2), (5, 8, 6, 0)]);
    let report = setup.verify(20, false).await;
    assert_eq!((report.faults, report.missing), (vec![], 12));
}

#[tokio::test]
async fn a_part_that_begins_with_a_provisional_row_is_dropped_whole() {
    let setup = Setup::remote();
    let mut sink = setup.started().await;
    sink.accept(setup.failed(1, 0, 0, 1)).unwrap();
    sink.accept(setup.item(1, 1, 1)).unwrap();
    sink.drain().unwrap();
    assert!(notices(&mut sink).await.is_empty());
    assert!(setup.rows().await.1.is_empty());
}

#[tokio::test]
async fn a_restart_drops_the_work_and_hands_the_chain_out() {
    let setup = Setup { rows_per_part: 2, ..Setup::remote() };
    let mut sink = setup.started().await;
    sink.accept(setup.item(1, 0, 0)).unwrap();
    sink.accept(setup.item(1, 1, 1)).unwrap();
    sink.accept(setup.failed(1, 2, 2, 1)).unwrap();
    assert!(matches!(sink.next().await.unwrap(), Notice::Published(Published { end: 2, .. })));
    sink.restart(&p());
    let Notice::Restart { chain, foreign: false } = sink.next().await.unwrap() else { panic!("no restart") };
    sink.start(chain, 2).unwrap();
    sink.accept(setup.item(1, 3, 3)).unwrap();
    sink.accept(setup.item(2, 0, 2)).unwrap();
    sink.end(&p(), 2, 1, 3).unwrap();
    notices(&mut sink).await;
    let report = setup.verify(3, true).await;
    assert_eq!((report.faults, report.failed), (vec![], 0));
}

#[tokio::test]
async fn held_bytes_rise_with_rows_and_fall_with_relief() {
    let setup = Setup::remote();
    let mut sink = setup.started().await;
    sink.accept(setup.item(1, 1, 1)).unwrap();
    assert!(sink.held_bytes() > 100);
    assert!(!sink.relieve().unwrap(), "it waits in the window");
    sink.accept(setup.item(1, 0, 0)).unwrap();
    let before = sink.held_bytes();
    assert!(sink.relieve().unwrap());
    assert!(sink.held_bytes() < before);
    sink.end(&p(), 1, 2, 2).unwrap();
    notices(&mut sink).await;
    assert_eq!((sink.held_bytes(), sink.queued_bytes()), (0, 0));
    let part = StoredPart::open(&setup.folder, &part_name(&p(), 0)).await.unwrap().unwrap();
    assert_eq!((part.metadata().num_row_groups(), part.footer().rows), (1, 2));
}

#[tokio::test]
async fn recovery_refuses_another_dataset_s_part() {
    let setup = Setup::remote();
    let mut sink = setup.started().await;
    sink.end(&p(), 1, 0, 5).unwrap();
    notices(&mut sink).await;
    let stranger = Dataset { id: "another".into(), ..dataset(setup.folder.clone()) };
    let error = Chain::recover(&stranger, &p(), 0).await.unwrap_err();
    assert!(
        matches!(&error, Error::DataLoss(why) if why.contains("the-dataset") && why.contains("00000.parquet")),
        "{error}"
    );
    let Folder::Remote { store, .. } = &setup.folder else { unreachable!() };
    store
        .put(
            &ObjectPath::from("out/data/00000-00000/00000000000000000009.parquet"),
            Bytes::from_static(b"PAR1torn").into(),
        )
        .await
        .unwrap();
    assert!(matches!(Chain::recover(&dataset(setup.folder.clone()), &p(), 0).await, Err(Error::DataLoss(_))));
}

/// Three parts of 10, 10 and 5 rows.
async fn three_parts() -> (Setup, Arc<dyn ObjectStore>) {
    let store = store();
    let setup = Setup::on(remote(store.clone()));
    let mut sink = setup.started().await;
    for seq in 0..25 {
        sink.accept(setup.item(1, seq, seq)).unwrap();
    }
    sink.end(&p(), 1, 25, 25).unwrap();
    notices(&mut sink).await;
    (setup, store)
}

fn at(from: u64) -> ObjectPath {
    ObjectPath::from(format!("out/{}", part_name(&p(), from)))
}

#[tokio::test]
async fn verify_names_every_fault() {
    let (setup, store) = three_parts().await;
    assert!(setup.verify(25, true).await.faults.is_empty());
    let short = setup.verify(30, true).await.faults;
    assert!(short.len() == 1 && short[0].contains("ends at 25, the plan at 30"), "{short:?}");
    assert!(setup.verify(30, false).await.faults.is_empty());
    let long = setup.verify(20, false).await.faults;
    assert!(long.len() == 1 && long[0].contains("behind the plan"), "{long:?}");

    // A missing part in the middle.
    let middle = store.get(&at(10)).await.unwrap().bytes().await.unwrap();
    store.delete(&at(10)).await.unwrap();
    let faults = setup.verify(25, true).await.faults;
    assert!(faults.len() == 1 && faults[0].contains("positions 10 to 19 are missing"), "{faults:?}");
    store.put(&at(10), middle.clone().into()).await.unwrap();

    // A stray file, a partition that the plan does not have.
    store.put(&ObjectPath::from("out/data/00000-00000/extra.parquet"), middle.clone().into()).await.unwrap();
    store
        .put(&ObjectPath::from("out/data/00009-00000/00000000000000000010.parquet"), middle.clone().into())
        .await
        .unwrap();
    let faults = setup.verify(25, true).await.faults.join("\n");
    assert!(faults.contains("extra.parquet: not a part"), "{faults}");
    assert!(faults.contains("no such partition") && faults.contains("belongs to partition 00000-00000"), "{faults}");
    store.delete(&ObjectPath::from("out/data/00000-00000/extra.parquet")).await.unwrap();
    store.delete(&ObjectPath::from("out/data/00009-00000/00000000000000000010.parquet")).await.unwrap();

    // A copy under another name overlaps.
    store.put(&at(15), middle.clone().into()).await.unwrap();
    let faults = setup.verify(25, true).await.faults.join("\n");
    assert!(faults.contains("overlaps") && faults.contains("its footer begins at 10, its name at 15"), "{faults}");
    store.delete(&at(15)).await.unwrap();

    // Edited footers: the same length, another number.
    let edit = |from: &[u8], to: &[u8]| {
        let mut bytes = middle.to_vec();
        let places: Vec<_> =
            bytes.windows(from.len()).enumerate().filter(|(_, w)| *w == from).map(|(i, _)| i).collect();
        assert_eq!(places.len(), 1, "{}", String::from_utf8_lossy(from));
        bytes[places[0]..places[0] + from.len()].copy_from_slice(to);
        Bytes::from(bytes)
    };
    for (from, to, fault) in [
        (&b"lm4lv.end\x18\x0220"[..], &b"lm4lv.end\x18\x0221"[..], "does not add up"),
        (b"lm4lv.rows\x18\x0210", b"lm4lv.rows\x18\x0211", "the file has 10"),
        (b"lm4lv.failed\x18\x010", b"lm4lv.failed\x18\x011", "its footer says 1"),
        (b"lm4lv.last\x18\x0219", b"lm4lv.last\x18\x0218", "its footer says otherwise"),
        (b"lm4lv.dataset", b"lm4lv.dateset", "lm4lv.dataset is missing"),
    ] {
        store.put(&at(10), edit(from, to).into()).await.unwrap();
        let faults = setup.verify(25, true).await.faults.join("\n");
        assert!(faults.contains(fault), "{fault}: {faults}");
    }

    // Truncated.
    store.put(&at(10), middle.slice(..middle.len() / 2).into()).await.unwrap();
    let faults = setup.verify(25, true).await.faults.join("\n");
    assert!(faults.contains("not a readable Parquet file"), "{faults}");
    store.put(&at(10), middle.into()).await.unwrap();

    // The oldest may be archived.
    store.delete(&at(0)).await.unwrap();
    let report = setup.verify(25, false).await;
    assert_eq!((report.faults, report.archived), (vec![], 10));
    let faults = setup.verify(25, true).await.faults.join("\n");
    assert!(faults.contains("its first 10 positions lie before the oldest part"), "{faults}");
}

#[tokio::test]
async fn rows_out_of_their_place_are_found() {
    let (setup, store) = three_parts().await;
    // The rows of the second part under the first one's name and footer.
    let sink = setup.sink();
    let other = Setup::remote();
    let mut wrong = other.started().await;
    for seq in 0..10 {
        wrong.accept(other.item(1, seq, seq + 1)).unwrap();
    }
    notices(&mut wrong).await;
    let bytes = other.folder.get(&part_name(&p(), 0)).await.unwrap().unwrap();
    store.put(&at(0), bytes.into()).await.unwrap();
    drop(sink);
    let faults = setup.verify(25, true).await.faults.join("\n");
    assert!(faults.contains("overlaps the part before it, which ends at 11"), "{faults}");
}

#[tokio::test]
async fn a_writer_that_was_silent_for_an_hour_lists_before_it_writes() {
    // The chain went on and its first parts were deleted: the name is free again, and must not be taken.
    let (setup, store) = three_parts().await;
    let (zombie_setup, folder) = (Setup::remote(), setup.folder.clone());
    let zombie = Setup { folder, ..zombie_setup };
    tokio::time::pause();
    let mut sink = zombie.sink();
    let empty = Chain::recover(&dataset(Setup::remote().folder), &p(), 0).await.unwrap();
    sink.start(empty, 1).unwrap();
    store.delete(&at(0)).await.unwrap();
    store.delete(&at(10)).await.unwrap();
    tokio::time::advance(Duration::from_secs(3601)).await;
    for seq in 0..10 {
        sink.accept(zombie.item(1, seq, seq)).unwrap();
    }
    let Notice::Restart { chain, foreign: true } = sink.next().await.unwrap() else { panic!("it wrote") };
    assert_eq!(chain.end(), 25);
    assert!(store.head(&at(0)).await.is_err());
}

#[tokio::test]
async fn tasks_of_many_partitions_do_not_mix() {
    let setup = Setup::remote();
    let mut sink = setup.sink();
    let partitions: Vec<_> = (0..5).map(|range| Partition::of_file(0, range)).collect();
    for partition in &partitions {
        sink.start(Chain::recover(&sink.dataset(), partition, 0).await.unwrap(), 1).unwrap();
    }
    for seq in 0..23 {
        for partition in &partitions {
            let mut item = setup.item(1, seq, seq);
            Arc::get_mut(&mut item.record).unwrap().position.partition = partition.clone();
            sink.accept(item).unwrap();
        }
    }
    for partition in &partitions {
        sink.end(partition, 1, 23, 23).unwrap();
    }
    let notices = notices(&mut sink).await;
    let mut ends: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for part in published(&notices) {
        ends.entry(part.partition.clone()).or_default().push(part.end);
    }
    assert!(ends.len() == 5 && ends.values().all(|ends| *ends == [10, 20, 23]), "{ends:?}");
}
