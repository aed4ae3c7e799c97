//! Which slice a request is for: by host and by the longest path prefix of
//! whole segments. Built when tables change, read for every request.

use std::collections::HashMap;
use std::sync::Arc;

use aether_invoker::{IngressClaim, Invoker, SliceHandle, SliceName, SliceTable};

/// The rules of all slices. A host of its own wins over any host, then the
/// longest path wins; of two slices with the same rule, the one that asked for
/// it first.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    hosts: HashMap<Box<str>, Paths>,
    any_host: Paths,
    /// What it was built from, to see whether anything has changed.
    rules: Vec<(SliceName, IngressClaim)>,
}

#[derive(Debug, Default)]
struct Paths {
    /// Without trailing slashes, so that the root is empty.
    by_path: HashMap<Box<str>, Arc<SliceHandle>>,
    /// Most segments of any path: bounds the look-ups for a request.
    segments_max: usize,
}

/// The rules of all slices, the earliest first.
fn rules_of(tables: &[Arc<SliceTable>]) -> Vec<(SliceName, IngressClaim)> {
    let rules_of = |table: &Arc<SliceTable>| {
        let named = |claim: &IngressClaim| (table.slice.clone(), claim.clone());
        table.ingress.iter().map(named).collect::<Vec<_>>()
    };
    let mut rules: Vec<_> = tables.iter().flat_map(rules_of).collect();
    // Tables come ordered by slice name, and the sort is stable.
    rules.sort_by_key(|(_, claim)| claim.since);
    rules
}

impl Routes {
    /// The rules of the invoker's current tables.
    pub(crate) fn build(invoker: &Invoker) -> Self {
        Self::of(rules_of(&invoker.tables()), invoker)
    }

    fn of(rules: Vec<(SliceName, IngressClaim)>, invoker: &Invoker) -> Self {
        let mut routes = Self::default();
        let mut handles = HashMap::new();
        for (slice, IngressClaim { rule, .. }) in &rules {
            let handle = handles.entry(slice).or_insert_with(|| Arc::new(invoker.slice(slice)));
            let paths = match &rule.host {
                Some(host) => routes.hosts.entry(host.as_str().into()).or_default(),
                None => &mut routes.any_host,
            };
            // The first entry stays.
            paths.add(&rule.path, handle);
        }
        routes.rules = rules;
        routes
    }

    /// The rules of the invoker's current tables if they differ from these.
    pub(crate) fn rebuild(&self, invoker: &Invoker) -> Option<Self> {
        let rules = rules_of(&invoker.tables());
        (rules != self.rules).then(|| Self::of(rules, invoker))
    }

    /// The slice that a request is for. `host` is in lower case and without a
    /// port; `path` is as it came, with its escapes.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&Arc<SliceHandle>> {
        self.hosts.get(host).and_then(|paths| paths.find(path)).or_else(|| self.any_host.find(path))
    }
}

impl Paths {
    fn add(&mut self, path: &str, handle: &Arc<SliceHandle>) {
        let path = path.trim_end_matches('/');
        self.segments_max = self.segments_max.max(segments(path));
        self.by_path.entry(path.into()).or_insert_with(|| Arc::clone(handle));
    }

    fn find(&self, path: &str) -> Option<&Arc<SliceHandle>> {
        if !path.starts_with('/') {
            return None;
        }
        // The longest prefix that any rule could name, then shorter ones.
        let mut prefix = match path.match_indices('/').nth(self.segments_max) {
            Some((end, _)) => &path[..end],
            None => path.trim_end_matches('/'),
        };
        loop {
            if let Some(handle) = self.by_path.get(prefix) {
                return Some(handle);
            }
            prefix = &prefix[..prefix.rfind('/')?];
        }
    }
}

fn segments(path: &str) -> usize {
    path.bytes().filter(|byte| *byte == b'/').count()
}

#[cfg(test)]
mod tests {
    use aether_invoker::{Config, IngressRule, SessionKind, Weights};

    use super::*;

    /// Routes to slices `org.example:{name}`, the first of which asked first.
    async fn routes(rules: &[(&str, &str, &str)]) -> Routes {
        let node = ([127, 0, 0, 1], 1).into();
        let config = Config::new("test", SessionKind::Ingress, vec![node]);
        let invoker = Invoker::connect(config).unwrap();
        let table = |(since, (host, path, name)): (usize, &(&str, &str, &str))| {
            let host = Some((*host).to_owned()).filter(|host| !host.is_empty());
            let rule = IngressRule { host, path: (*path).to_owned() };
            Arc::new(SliceTable {
                slice: format!("org.example:{name}").parse().unwrap(),
                table_revision: 1,
                route_revision: 1,
                weights: Weights::ALL_OLD,
                new: None,
                old: None,
                hold_ms: 0,
                ingress: vec![IngressClaim { rule, since: since as u64 }],
            })
        };
        let mut tables: Vec<_> = rules.iter().enumerate().map(table).collect();
        tables.sort_by_key(|table| table.slice.clone());
        Routes::of(rules_of(&tables), &invoker)
    }

    fn find(routes: &Routes, host: &str, path: &str) -> Option<String> {
        Some(routes.find(host, path)?.name().base().artifact().to_owned())
    }

    #[tokio::test]
    async fn the_longest_prefix_of_whole_segments_wins() {
        let rules = [("", "/", "root"), ("", "/api", "api"), ("", "/api/v2/", "v2")];
        let routes = routes(&rules).await;
        for (path, slice) in [
            ("/", "root"),
            ("/apix", "root"),
            ("/api", "api"),
            ("/api/", "api"),
            ("/api/v1", "api"),
            ("/api/v22", "api"),
            ("/api/v2", "v2"),
            ("/api/v2/", "v2"),
            ("/api/v2/x/y/z", "v2"),
            ("/api//v2", "api"),
            ("//api", "root"),
            ("///////", "root"),
        ] {
            assert_eq!(find(&routes, "h", path).as_deref(), Some(slice), "{path}");
        }
        assert_eq!(find(&routes, "h", "*"), None);
        assert_eq!(find(&routes, "h", ""), None);
    }

    #[tokio::test]
    async fn a_host_of_its_own_wins_and_the_slice_that_asked_first_stays() {
        let rules = [
            ("", "/api/long/path", "any"),
            ("shop.example", "/api", "shop"),
            ("shop.example", "/api", "aardvark"),
        ];
        let routes = routes(&rules).await;
        assert_eq!(find(&routes, "shop.example", "/api/long/path").as_deref(), Some("shop"));
        assert_eq!(find(&routes, "other.example", "/api/long/path/").as_deref(), Some("any"));
        assert_eq!(find(&routes, "other.example", "/api"), None);
        assert_eq!(find(&routes, "shop.example", "/"), None);
        let hostile = "/a".repeat(16_000);
        assert_eq!(find(&routes, "shop.example", &hostile), None);
    }
}
