//! What is told twice is printed once.

use aether_proto::errors::Problem;
use tonic::Status;

use super::*;
use crate::cli::client::tests::over;
use crate::cli::fake::Fake;

fn put(index: u64, key: &str, value: &str) -> v1::KvChange {
    let value_json = Some(value.to_owned());
    v1::KvChange { kind: "PUT".into(), key: key.into(), value_json, index }
}

fn delete(index: u64, key: &str) -> v1::KvChange {
    v1::KvChange { kind: "DELETE".into(), key: key.into(), value_json: None, index }
}

fn synced(index: u64) -> v1::KvChange {
    v1::KvChange { kind: SYNCED.into(), index, ..Default::default() }
}

fn compacted() -> Status {
    Problem::new(Code::OutOfRange, COMPACTED, "this node has no changes of index 9").status()
}

/// What is printed: kind, index, key and record.
fn line(change: &v1::KvChange) -> String {
    render::event::change(change).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn printed(seen: &mut Seen, told: impl IntoIterator<Item = v1::KvChange>) -> Vec<String> {
    told.into_iter().flat_map(|change| seen.take(change)).map(|change| line(&change)).collect()
}

#[test]
fn a_watch_that_was_cut_off_goes_on_where_all_was_seen() {
    let mut seen = Seen::new(None);
    let mut whole = |change| {
        seen.take(change);
        seen.whole
    };
    assert_eq!(whole(put(5, "a", "1")), None, "one of the first records, of which more may come");
    assert_eq!(whole(synced(5)), Some(5));
    assert_eq!(whole(put(7, "a", "2")), Some(5), "there may be more of 7");
    assert_eq!(whole(delete(7, "b")), Some(5));
    assert_eq!(whole(put(9, "a", "3")), Some(7));
    assert_eq!(whole(synced(20)), Some(20), "nothing that fits came since");
    let silence = Failure::new(Exit::Unreachable, "x");
    assert!(seen.lost(&silence).message().contains("--from 20"));
}

#[test]
fn records_of_a_first_answer_that_broke_off_are_not_mixed_with_those_of_the_next() {
    let mut seen = Seen::new(None);
    assert!(printed(&mut seen, [put(5, "a", "1"), put(5, "b", "1")]).is_empty());
    seen.broke_off();
    let told = [put(8, "b", "2"), synced(8), put(9, "c", "1"), synced(9)];
    assert_eq!(printed(&mut seen, told), ["PUT 8 b 2", "SYNCED 8", "PUT 9 c 1"]);
}

#[test]
fn an_entry_that_was_told_in_part_is_told_to_its_end() {
    let mut seen = Seen::new(Some(3));
    let told = [put(4, "a", "1"), put(7, "a", "2"), delete(7, "b")];
    assert_eq!(printed(&mut seen, told), ["PUT 4 a 1", "PUT 7 a 2", "DELETE 7 b"]);
    seen.broke_off();
    assert_eq!(seen.whole, Some(4));
    // Twice: the second node breaks off before it comes to what is new.
    assert!(printed(&mut seen, [put(7, "a", "2")]).is_empty());
    seen.broke_off();
    let told = [put(7, "a", "2"), delete(7, "b"), put(7, "c", "2"), synced(7), put(8, "a", "2")];
    assert_eq!(printed(&mut seen, told), ["PUT 7 c 2", "SYNCED 7", "PUT 8 a 2"]);
}

async fn read_all(client: &Client, from: Option<u64>) -> (Vec<String>, Failure) {
    let mut lines = Vec::new();
    let ended = read(client, "a/".into(), from, |change| {
        lines.push(line(change));
        Ok(())
    });
    let failure = ended.await.unwrap_err();
    (lines, failure)
}

#[tokio::test]
async fn a_broken_watch_goes_on_at_another_node_after_what_was_printed() {
    let (first, second) = (Fake::default(), Fake::default());
    let going = Err(Status::unavailable("going down"));
    let told = vec![Ok(put(3, "a/x", "1")), Ok(synced(3)), Ok(put(5, "a/x", "2")), going];
    first.will_stream("Cluster/KvWatch", told);
    let told =
        vec![Ok(put(5, "a/x", "2")), Ok(put(6, "a/y", "1")), Ok(synced(9)), Err(compacted())];
    second.will_stream("Cluster/KvWatch", told);
    let client = over(&[first.serve().await, second.serve().await]);
    // The first one is asked again after the second, and was restarted.
    let asked = tokio::spawn({
        let first = first.clone();
        async move {
            while first.asked().is_empty() {
                tokio::task::yield_now().await;
            }
            first.will_refuse_method("Cluster/KvWatch", compacted());
        }
    });
    let (lines, failure) = read_all(&client, None).await;
    asked.await.unwrap();
    assert_eq!(lines, ["PUT 3 a/x 1", "SYNCED 3", "PUT 5 a/x 2", "PUT 6 a/y 1"]);
    assert_eq!(failure.exit(), Exit::Failed);
    assert!(failure.message().contains("after log index 9 any more"), "{}", failure.message());
    assert_eq!(
        first.asked(),
        ["Cluster/KvWatch prefix=a/", "Cluster/KvWatch prefix=a/ from_index=9"]
    );
    assert_eq!(second.asked(), ["Cluster/KvWatch prefix=a/ from_index=3"]);
}

#[tokio::test]
async fn an_index_that_one_node_does_not_have_any_more_is_asked_of_all() {
    let (first, second) = (Fake::default(), Fake::default());
    first.will_refuse(compacted());
    second.will_stream("Cluster/KvWatch", vec![Ok(put(5, "a/x", "2")), Err(compacted())]);
    let client = over(&[first.serve().await, second.serve().await]);
    let (lines, failure) = read_all(&client, Some(4)).await;
    assert_eq!(lines, ["PUT 5 a/x 2"]);
    assert_eq!(failure.message(), "this node has no changes of index 9", "the node's own words");
}
