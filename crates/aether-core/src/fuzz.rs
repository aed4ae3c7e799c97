//! Names, ratios, durations and manifests from any text: what is accepted has
//! one spelling, keeps its bounds, and reads the same again.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use aether_fuzz::proptest::prelude::*;
use aether_fuzz::{CASES, check, mutated, near, text};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::coordinates::{
    Artifact, ArtifactBase, COORDINATE_BYTES_MAX, SliceName, SliceReference, Version,
};
use crate::duration::Millis;
use crate::ids::{InstanceId, NodeName, SessionId, UpdateId, base36};
use crate::latency;
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::weights::{WEIGHT_MAX, Weights};

/// Longest error of a refused text: it is shown, logged and sent.
const ERROR_BYTES_MAX: usize = 1_000;

/// Cases of a target that only parses a short text.
const CHEAP: u32 = 8 * CASES;

fn texts(valid: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![1 => text(), 3 => near(valid)]
}

/// Reads a text as `T`. What is accepted comes back from its own spelling, and
/// from JSON; the error of what is not is short.
fn read<T>(text: &str) -> Option<T>
where
    T: FromStr + Display + Debug + PartialEq + Serialize + DeserializeOwned,
    T::Err: Display,
{
    match text.parse::<T>() {
        Ok(value) => {
            let spelling = value.to_string();
            let again = spelling.parse::<T>().map_err(|e| e.to_string());
            assert_eq!(again.as_ref(), Ok(&value), "from its own spelling");
            assert_eq!(again.unwrap().to_string(), spelling, "one spelling");
            let json = serde_json::to_string(&value).unwrap();
            assert_eq!(serde_json::from_str::<T>(&json).unwrap(), value, "from JSON");
            Some(value)
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.len() <= ERROR_BYTES_MAX, "{} bytes of error", error.len());
            None
        }
    }
}

/// Whether a text can be a part of a path, and of a row's key.
fn is_path_part(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'\\')
}

#[test]
fn coordinates_have_one_spelling_that_is_a_safe_name() {
    const VALID: &[&str] = &[
        "org.example:my-slice",
        "org.example:my-slice@staging",
        "org.example:my-slice@default",
        "org.example:my-slice:2.0.0",
        "org.example:my-slice:2.0.0-rc.1+build.7@blue",
        "a.b_c-d.e1:x1:1.2.3.4",
        "1.2.3-rc.1+7",
        "0.0.0",
        "1.2.3.4",
    ];
    check(CHEAP, texts(VALID), |text| {
        let spellings = [
            read::<Version>(&text).map(|v| v.to_string()),
            read::<ArtifactBase>(&text).map(|v| v.to_string()),
            read::<Artifact>(&text).map(|v| v.to_string()),
            read::<SliceName>(&text).map(|v| v.to_string()),
        ];
        for spelling in spellings.iter().flatten() {
            assert!(is_path_part(spelling) && spelling.len() <= COORDINATE_BYTES_MAX, "{spelling}");
        }
        // Only the environment may be spelled in another way: `@default`.
        assert!(spellings[..3].iter().flatten().all(|spelling| *spelling == text));
        if let Ok(reference) = text.parse::<SliceReference>() {
            let slice = reference.slice;
            let named = reference.version.map(|version| format!(":{version}"));
            let (base, environment) = (slice.base(), slice.environment());
            let again = format!("{base}{}@{environment}", named.unwrap_or_default());
            // The environment that goes without saying may take it over the limit.
            if again.len() <= COORDINATE_BYTES_MAX {
                assert_eq!(again.parse::<SliceReference>().unwrap().slice, slice);
            }
        }
    });
}

#[test]
fn ratios_are_reduced_and_bounded() {
    const VALID: &[&str] = &["1:3", "0:1", "1:0", "25:75", "20000:20000", "9999:10000", "007:1"];
    check(CHEAP, texts(VALID), |text| {
        let Some(weights) = read::<Weights>(&text) else { return };
        let (new, old) = (weights.new_side(), weights.old_side());
        assert!(new.max(old) <= WEIGHT_MAX && weights.total() > 0);
        assert!((2..=new.max(old)).all(|n| new % n != 0 || old % n != 0), "{weights} is reduced");
    });
    check(CHEAP, (any::<u64>(), any::<u64>(), 1..1_000u64), |(new, old, times)| {
        let (new, old) = (new % 20_000, old % 20_000);
        assert_eq!(Weights::new(new, old), Weights::new(new * times, old * times));
    });
    check(CHEAP, (any::<u64>(), any::<u64>()), |(new, old)| drop(Weights::new(new, old)));
}

#[test]
fn durations_need_a_unit_and_come_back_from_their_own_spelling() {
    const VALID: &[&str] = &["500ms", "10s", "1m 30s", "365d", "8759h 59m 59s 999ms", "2weeks"];
    check(CHEAP, texts(VALID), |text| {
        let Some(span) = read::<Millis>(&text) else { return };
        assert!(span <= Millis(365 * 24 * 3_600_000));
        assert!(text.chars().any(char::is_alphabetic), "'{text}' has no unit");
    });
    check(CHEAP, 0..=365 * 24 * 3_600_000u64, |ms| {
        assert_eq!(Millis(ms).to_string().parse(), Ok(Millis(ms)));
    });
}

#[test]
fn ids_are_safe_file_names() {
    const VALID: &[&str] = &["node-1.rack_2", "N1", "u1a", "my-slice-z0-17", "current"];
    check(CHEAP, texts(VALID), |text| {
        let spellings = [
            read::<NodeName>(&text).map(|id| id.to_string()),
            read::<SessionId>(&text).map(|id| id.to_string()),
            read::<InstanceId>(&text).map(|id| id.to_string()),
            read::<UpdateId>(&text).map(|id| id.to_string()),
        ];
        for spelling in spellings.into_iter().flatten() {
            assert!(is_path_part(&spelling) && spelling.len() <= 64 && spelling == text);
        }
    });
}

#[test]
fn ids_of_any_log_index_are_valid_and_differ() {
    let artifact = "[a-z0-9]{1,60}(-[a-z0-9]{1,60}){0,2}";
    check(CHEAP, (artifact, any::<u64>(), any::<u64>(), 0..10_000usize), |(name, a, b, k)| {
        let base: ArtifactBase = format!("a.b:{name}").parse().unwrap();
        let instance = InstanceId::from_index(base.artifact(), a, k);
        assert_eq!(read::<InstanceId>(instance.as_str()).as_ref(), Some(&instance));
        let update = UpdateId::from_index(a);
        assert_eq!(read::<UpdateId>(update.as_str()).as_ref(), Some(&update));
        assert_eq!(u64::from_str_radix(&base36(a), 36), Ok(a));
        assert_eq!(update == UpdateId::from_index(b), a == b);
    });
}

#[test]
fn quantiles_lie_in_a_bucket_that_was_counted() {
    let counts = prop::collection::btree_map(0..latency::BUCKETS, any::<u64>(), 0..6);
    check(CHEAP, (counts, 0..=2_000_000u64, any::<u64>()), |(counts, quantile, value)| {
        let counted = counts.iter().filter(|(_, count)| **count > 0);
        let bounds: Vec<u64> = counted.map(|(at, _)| latency::upper_bound_us(*at)).collect();
        let found = latency::quantile_us(counts.iter().map(|(at, n)| (*at, *n)), quantile);
        match found {
            Some(bound) => assert!(bounds.contains(&bound)),
            None => assert!(bounds.is_empty() || quantile > 1_000_000),
        }
        assert!(latency::bucket_of(value) < latency::BUCKETS);
    });
}

const MANIFEST: &str = "\
artifact = 'org.example:my-slice:1.0.0'
[run]
command = ['./server', '--port', '${PORT}', '--name', \"a \\u0007 b\"]
config_files = ['etc/server.conf', 'a/./b']
stop_signal = 'SIGQUIT'
grace = '10s'
drain = '1m 30s'
env = { HOME = '${INSTANCE_DIR}', X = '' }
[ready]
http = '/ready?deep=1'
interval = '250ms'
timeout = '1s'
successes = 1
failures = 3
[[ingress]]
host = 'shop.example'
path = '/api'
[[ingress]]
path = '/'
";

/// What every accepted manifest is, whichever way it came.
fn sound(manifest: &Manifest) {
    assert_eq!(manifest.check(), Ok(()));
    let run = &manifest.run;
    let texts = run.command.iter().chain(run.env.keys()).chain(run.env.values());
    let texts = texts.chain(&run.config_files).chain(&manifest.ready.http);
    let texts = texts.chain(manifest.ingress.iter().map(|rule| &rule.path));
    assert!(texts.into_iter().all(|text| !text.contains('\0')), "a NUL byte goes to the system");
    for file in &run.config_files {
        assert!(!file.starts_with('/') && !file.split('/').any(|part| part == ".."), "{file}");
    }
    let json = serde_json::to_string(manifest).unwrap();
    assert_eq!(serde_json::from_str::<Manifest>(&json).unwrap(), *manifest, "from JSON");
    let toml = manifest.to_toml();
    // What grew by its quotes is over the limit of a file and was in no file.
    if toml.len() <= MANIFEST_BYTES_MAX {
        assert_eq!(Manifest::parse(&toml).as_ref(), Ok(manifest), "from TOML:\n{toml}");
    }
}

#[test]
fn manifests_come_back_from_toml_and_json() {
    let toml = prop_oneof![1 => text(), 5 => near(&[MANIFEST])];
    check(4 * CASES, toml, |text| {
        match Manifest::parse(&text) {
            Ok(manifest) => sound(&manifest),
            // It shows a line of the text.
            Err(error) => assert!(error.to_string().len() <= 4 * text.len() + ERROR_BYTES_MAX),
        }
    });
    let json = serde_json::to_vec(&Manifest::parse(MANIFEST).unwrap()).unwrap();
    check(4 * CASES, mutated(vec![json]), |bytes| {
        if let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes)
            && manifest.check().is_ok()
        {
            sound(&manifest);
        }
    });
}

#[test]
fn any_text_in_any_field_of_a_manifest_is_kept_or_refused() {
    let texts = prop::collection::vec(text(), 8);
    check(2 * CASES, texts, |texts| {
        let mut manifest = Manifest::parse(MANIFEST).unwrap();
        let mut texts = texts.into_iter();
        let mut next = || texts.next().unwrap();
        manifest.run.command = vec![next(), next()];
        manifest.run.env.insert(next(), next());
        manifest.run.config_files = vec![next()];
        manifest.ready.http = Some(next());
        manifest.ingress[0].host = Some(next());
        manifest.ingress[0].path = next();
        if manifest.check().is_ok() {
            sound(&manifest);
        }
        // As good as any field by itself is refused or not.
        let mut single = Manifest::parse(MANIFEST).unwrap();
        single.run.config_files = manifest.run.config_files;
        if single.check().is_ok() {
            sound(&single);
        }
    });
}
