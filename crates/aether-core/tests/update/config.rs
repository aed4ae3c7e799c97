//! Values of users: what may be written, when, and how much of it.

use aether_core::command::{Command, Outcome, Refusal};
use aether_core::ids::ConfigName;
use aether_core::records::CONFIG_VALUE_BYTES_MAX;
use aether_core::state::State;

use crate::world::World;

fn name(text: &str) -> ConfigName {
    text.parse().unwrap()
}

fn put(world: &mut World, key: &str, value: &str, if_modified: Option<u64>) -> Outcome {
    world.propose(Command::PutConfig { name: name(key), value: value.into(), if_modified })
}

fn remove(world: &mut World, key: &str, if_modified: Option<u64>) -> Outcome {
    world.propose(Command::RemoveConfig { name: name(key), if_modified })
}

#[test]
fn a_value_is_put_only_over_the_one_that_was_expected() {
    let mut world = World::empty();
    let first = put(&mut world, "a/b", "1", Some(0)).unwrap().index;
    let again = put(&mut world, "a/b", "2", Some(0)).unwrap_err();
    let key = "config/a/b".to_owned();
    assert_eq!(again, Refusal::KeyModified { key: key.clone(), expected: 0, actual: first });
    let second = put(&mut world, "a/b", "2", Some(first)).unwrap().index;
    let record = world.state.config.get("a/b").unwrap();
    assert_eq!((&*record.value, record.created, record.modified), ("2", first, second));
    let stale = remove(&mut world, "a/b", Some(first)).unwrap_err();
    assert_eq!(stale, Refusal::KeyModified { key: key.clone(), expected: first, actual: second });
    remove(&mut world, "a/b", Some(second)).unwrap();
    assert_eq!(world.state.config_bytes(), 0);
    assert_eq!(remove(&mut world, "a/b", None).unwrap_err(), Refusal::UnknownKey { key });
    let gone = put(&mut world, "a/b", "3", Some(second)).unwrap_err();
    assert!(gone.to_string().contains("is not there"), "{gone}");
}

#[test]
fn a_value_has_its_bound_and_a_key_one_spelling() {
    let mut world = World::empty();
    let longest = "x".repeat(CONFIG_VALUE_BYTES_MAX);
    put(&mut world, "a", &longest, None).unwrap();
    let longer = put(&mut world, "a", &format!("{longest}x"), None).unwrap_err();
    assert!(longer.to_string().contains("at most 65536 bytes long"), "{longer}");
    assert_eq!(world.state.config_bytes(), 1 + CONFIG_VALUE_BYTES_MAX as u64);
    for text in ["", "/", "a/", "/a", "a//b", "a/../b", "..", ".a", "a b", "ä", &"x/".repeat(129)]
    {
        assert!(text.parse::<ConfigName>().is_err(), "{text:?}");
    }
}

#[test]
fn a_page_of_values_is_the_same_as_one_of_all_rows() {
    let mut world = World::empty();
    for key in ["b", "a", "a/b", "a.b", "a-b", "c/d/e"] {
        put(&mut world, key, "1", None).unwrap();
    }
    let keys = |prefix: &str, after: &str, limit| -> Vec<String> {
        let page = world.state.page(prefix, after, limit, usize::MAX);
        page.rows.into_iter().map(|(key, _)| key).collect()
    };
    let rows = world.state.rows();
    for prefix in ["", "c", "config", "config/", "config/a", "config/a/", "config/x", "d", "m"] {
        for after in ["", "audit/9", "config/", "config/a", "config/a.b", "config/z", "z"] {
            for limit in [1, 2, 100] {
                let fits = |key: &&String| key.starts_with(prefix) && key.as_str() > after;
                let expected: Vec<String> =
                    rows.iter().map(|(key, _)| key).filter(fits).take(limit).cloned().collect();
                assert_eq!(keys(prefix, after, limit), expected, "{prefix:?} after {after:?}");
            }
        }
    }
    for (key, value) in rows {
        assert_eq!(world.state.row(&key), Some(value));
    }
    let copy = State::from_rows(world.state.rows().into_iter()).unwrap();
    assert_eq!(copy.config_bytes(), world.state.config_bytes());
}
