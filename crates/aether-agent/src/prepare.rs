//! Gets everything in place that an instance needs before its shim is started:
//! archive, unpacked tree, its own copies of config files, its command.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aether_core::ids::InstanceId;
use aether_core::records::Reason;

use crate::artifact::{ArtifactStore, Digest, StoreError};
use crate::directive::Work;
use crate::fetch::Fetcher;
use crate::fsio::{self, Survives};
use crate::shim::spec::Layout;
use crate::substitute::Variables;
use crate::unpacked::{self, unpack_once};

/// Largest config file in which names are substituted, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Fetches and unpacks, once per digest however many instances want it.
#[derive(Debug)]
pub(crate) struct Preparer {
    store: Arc<ArtifactStore>,
    fetcher: Fetcher,
    unpacked: PathBuf,
    busy: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// Which unpacked tree an instance uses. A tree that nobody claims goes.
    claims: Mutex<BTreeMap<InstanceId, Digest>>,
    number: AtomicU64,
}

impl Preparer {
    /// Unpacks below `data_dir/unpacked`.
    pub fn open(
        data_dir: &Path,
        store: Arc<ArtifactStore>,
        fetcher: Fetcher,
    ) -> std::io::Result<Self> {
        let unpacked = data_dir.join("unpacked");
        fsio::create_private_dir(&unpacked)?;
        for entry in fs::read_dir(&unpacked)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(".new-") {
                fsio::remove_tree(&entry.path())?; // Left by a crash.
            }
        }
        let (busy, claims, number) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Ok(Self { store, fetcher, unpacked, busy, claims, number })
    }

    /// Makes sure that the verified archive is here and unpacked; gives the
    /// directory, which stays until the instance [gives it up](Self::give_up).
    pub async fn prepare(&self, instance: &InstanceId, work: &Work) -> Result<PathBuf, Reason> {
        let failed = |code, error: &dyn std::fmt::Display| Reason::new(code, error.to_string());
        let digest = work.digest().map_err(|error| failed("fetch_failed", &error))?;
        // Before the lock: who removes a tree looks for claims while holding it.
        self.claim(instance, digest);
        self.store.touch(&digest); // From here on it is not dropped.
        // A held archive that turns out damaged or gone is fetched again.
        let mut damaged = false;
        loop {
            let guard = self.lock_of(digest).lock_owned().await;
            if self.store.size_bytes(&digest).is_none() {
                self.fetcher.fetch(digest, &work.holders).await.map_err(|error| {
                    let code = if error.differs { "digest_mismatch" } else { "fetch_failed" };
                    failed(code, &error)
                })?;
            }
            let (store, dir) = (self.store.clone(), self.unpacked.join(digest.to_string()));
            let number = self.number.fetch_add(1, Ordering::Relaxed);
            let fresh = self.unpacked.join(format!(".new-{}-{number}", std::process::id()));
            // Goes on when the instance is stopped meanwhile, hence with the
            // guard: nobody else may unpack the same archive until it is done.
            let unpacking = tokio::task::spawn_blocking(move || {
                let _guard = guard;
                store.open_blocking(&digest).map(|file| unpack_once(file, &dir, &fresh))
            });
            match unpacking.await {
                Ok(Ok(unpacked)) => {
                    return unpacked.map_err(|error| Reason::new("unpack_failed", error));
                }
                Ok(Err(StoreError::DigestMismatch { .. } | StoreError::Unknown(_))) if !damaged => {
                    damaged = true;
                }
                Ok(Err(error @ StoreError::DigestMismatch { .. })) => {
                    return Err(failed("digest_mismatch", &error));
                }
                Ok(Err(error)) => return Err(failed("fetch_failed", &error)),
                Err(error) => return Err(failed("unpack_failed", &error)),
            }
        }
    }

    /// Where the unpacked tree is of an archive that an instance runs from.
    pub fn dir_of(&self, digest: &Digest) -> PathBuf {
        self.unpacked.join(digest.to_string())
    }

    /// Notes that an instance uses an unpacked tree.
    pub fn claim(&self, instance: &InstanceId, digest: Digest) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.insert(instance.clone(), digest);
    }

    /// What the instances of this node use.
    pub fn claimed(&self) -> BTreeSet<Digest> {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.values().copied().collect()
    }

    /// Ends an instance's use of its unpacked tree, and removes the tree if no
    /// other uses it. The archive stays for a while: unpacking it again is quick. Not to be
    /// called on a runtime's own thread.
    pub fn give_up(&self, instance: &InstanceId) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = claims.remove(instance);
        drop(claims);
        if let Some(digest) = digest {
            self.store.touch(&digest);
            let lock = self.lock_of(digest);
            let _guard = lock.blocking_lock();
            self.remove_if_unclaimed(&digest);
        }
    }

    /// Removes the trees that nobody claims, before anyone prepares anything.
    pub fn remove_unclaimed(&self) {
        for entry in fs::read_dir(&self.unpacked).into_iter().flatten().flatten() {
            if let Ok(digest) = entry.file_name().to_string_lossy().parse()
                && let Ok(_guard) = self.lock_of(digest).try_lock()
            {
                self.remove_if_unclaimed(&digest);
            }
        }
    }

    /// The digest's lock must be held.
    fn remove_if_unclaimed(&self, digest: &Digest) {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if claims.values().any(|claimed| claimed == digest) {
            return;
        }
        drop(claims);
        let dir = self.unpacked.join(digest.to_string());
        if let Err(error) = unpacked::remove(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "an unpacked artifact stays");
        }
    }

    fn lock_of(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        busy.entry(digest).or_default().clone()
    }
}

/// What an instance's process gets.
#[derive(Debug)]
pub(crate) struct Outfit {
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Commands of the probes, where they are commands.
    pub ready_exec: Option<Vec<String>>,
    pub live_exec: Option<Vec<String>>,
}

/// Makes the instance's own files and its command, with everything
/// substituted. `artifact_dir` is the unpacked tree.
pub(crate) fn outfit(
    instance: &InstanceId,
    work: &Work,
    listen: SocketAddr,
    artifact_dir: &Path,
    layout: &Layout,
) -> Result<Outfit, Reason> {
    let (port, ip) = (listen.port().to_string(), listen.ip().to_string());
    let version = work.artifact.version.to_string();
    let variables = variables(instance, work, listen, artifact_dir, layout);
    // A machine that loses its power starts the instance anew, and lays them again.
    lay_files(work, artifact_dir, &layout.work(), &variables, Survives::Process)?;
    let run = &work.manifest.run;
    let substituted = |command: &Vec<String>| {
        let mut command: Vec<String> = command.iter().map(|text| variables.apply(text)).collect();
        if let Some(program) = command.first_mut()
            && program.contains('/')
            && !program.starts_with('/')
        {
            *program = artifact_dir.join(&*program).display().to_string();
        }
        command
    };
    let command = substituted(&run.command);
    let ready_exec = work.manifest.ready.exec.as_ref().map(substituted);
    let live_exec =
        work.manifest.live.as_ref().and_then(|live| live.exec.as_ref()).map(substituted);
    let mut env = BTreeMap::from([("PATH".to_owned(), default_path())]);
    let pushed = work.config.iter().flat_map(|config| &config.env);
    let texts = run.env.iter().chain(pushed);
    env.extend(texts.map(|(name, text)| (name.clone(), variables.apply(text))));
    for (name, value) in [
        ("PORT", port),
        ("HOST", ip),
        ("AETHER_INSTANCE", instance.to_string()),
        ("AETHER_SLICE", work.slice.to_string()),
        ("AETHER_VERSION", version),
    ] {
        env.insert(name.to_owned(), value);
    }
    Ok(Outfit { command, env, ready_exec, live_exec })
}

fn variables(
    instance: &InstanceId,
    work: &Work,
    listen: SocketAddr,
    artifact_dir: &Path,
    layout: &Layout,
) -> Variables {
    Variables(vec![
        ("PORT", listen.port().to_string()),
        ("HOST", listen.ip().to_string()),
        ("INSTANCE", instance.to_string()),
        ("VERSION", work.artifact.version.to_string()),
        ("ARTIFACT_DIR", artifact_dir.display().to_string()),
        ("INSTANCE_DIR", layout.work().display().to_string()),
    ])
}

/// Lays the files of a running instance anew, each in one step: whenever its process
/// reads one, it has the old one or the new one.
pub(crate) fn relay(
    instance: &InstanceId,
    work: &Work,
    listen: SocketAddr,
    artifact_dir: &Path,
    layout: &Layout,
) -> Result<(), Reason> {
    let variables = variables(instance, work, listen, artifact_dir, layout);
    lay_files(work, artifact_dir, &layout.work(), &variables, Survives::PowerCut)
}

/// Makes the instance's own files: those that the manifest lists, from the artifact
/// or what was pushed in its place, with everything substituted; and the others that
/// were pushed, as they are.
fn lay_files(
    work: &Work,
    artifact_dir: &Path,
    work_dir: &Path,
    variables: &Variables,
    survives: Survives,
) -> Result<(), Reason> {
    let failed = |name: &str, problem: String| {
        Reason::new("config_failed", format!("config file '{name}' {problem}"))
    };
    let pushed = work.config.as_ref().map(|config| &config.files);
    let listed = &work.manifest.run.config_files;
    for name in listed {
        let content = match pushed.and_then(|pushed| pushed.get(name)) {
            Some(text) => Ok(text.to_string()),
            None => read_config(name, artifact_dir),
        };
        content
            .and_then(|content| lay_file(work_dir, name, &variables.apply(&content), survives))
            .map_err(|problem| failed(name, problem))?;
    }
    for (name, text) in pushed.into_iter().flatten().filter(|(name, _)| !listed.contains(name)) {
        lay_file(work_dir, name, text, survives).map_err(|problem| failed(name, problem))?;
    }
    Ok(())
}

/// Puts a file in its place below `dir` in one step. Its directories are made; none of
/// them may be a link, which could lead out.
fn lay_file(dir: &Path, name: &str, content: &str, survives: Survives) -> Result<(), String> {
    let text = |error: std::io::Error| format!("cannot be written: {error}");
    fs::create_dir_all(dir).map_err(text)?;
    let mut parent = dir.to_owned();
    let (parents, _) = name.rsplit_once('/').unwrap_or(("", name));
    for part in parents.split('/').filter(|part| !part.is_empty()) {
        parent.push(part);
        match fs::symlink_metadata(&parent) {
            Ok(known) if known.is_dir() => {}
            Ok(_) => {
                return Err(format!("cannot be written: {} is no directory", parent.display()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir(&parent).map_err(text)?;
            }
            Err(error) => return Err(text(error)),
        }
    }
    // Beside the directory, where the slice has nothing to do.
    let temporary = dir.with_extension("new");
    fsio::write_public(&dir.join(name), content.as_bytes(), &temporary, survives).map_err(text)
}

/// A config file of the artifact.
fn read_config(name: &str, from: &Path) -> Result<String, String> {
    let text = |error: std::io::Error| format!("cannot be copied: {error}");
    let source = from.join(name).canonicalize().map_err(text)?;
    if !source.starts_with(from.canonicalize().map_err(text)?) || !source.is_file() {
        return Err("is no file of the artifact".to_owned());
    }
    let mut content = String::new();
    let file = File::open(source).map_err(text)?;
    file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut content).map_err(text)?;
    if content.len() as u64 > CONFIG_BYTES_MAX {
        return Err(format!("is longer than {CONFIG_BYTES_MAX} bytes"));
    }
    Ok(content)
}

/// Where programs without a slash are looked for unless the manifest says.
fn default_path() -> String {
    std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned())
}

#[cfg(test)]
mod tests {
    use aether_core::manifest::Manifest;
    use aether_core::records::Configuration;

    use super::*;

    fn work(run: &str) -> Work {
        let manifest = format!("artifact='org.example:a:1.2.3'\n[run]\n{run}");
        Work {
            slice: "org.example:a@blue".parse().unwrap(),
            artifact: "org.example:a:1.2.3".parse().unwrap(),
            digest: Digest::of(b"").to_string(),
            manifest: Manifest::parse(&manifest).unwrap(),
            holders: Vec::new(),
            config_digest: None,
            config: None,
            reload: 0,
        }
    }

    fn configured(run: &str, files: &[(&str, &str)], env: &[(&str, &str)]) -> Work {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).into()));
        let env = env.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let config = Configuration { files: files.collect(), env: env.collect() };
        assert_eq!(config.check(), Ok(()));
        Work { config: Some(Arc::new(config)), ..work(run) }
    }

    #[test]
    fn command_environment_and_config_files_are_substituted() {
        let dir = tempfile::tempdir().unwrap();
        let artifact = dir.path().join("artifact");
        fs::create_dir_all(artifact.join("etc")).unwrap();
        fs::write(artifact.join("etc/a.conf"), "listen ${HOST}:${PORT} as ${INSTANCE}").unwrap();
        let layout = Layout::new(dir.path().join("instance"));
        let work = work(
            "command=['bin/a','-p','${PORT}','-c','${INSTANCE_DIR}/etc/a.conf']\n\
             config_files=['etc/a.conf']\nenv={ V='${VERSION}', PORT='1', D='${ARTIFACT_DIR}' }\n\
             [ready]\nexec=['./check','${PORT}']\n[live]\nexec=['true']",
        );
        let instance: InstanceId = "a-1-0".parse().unwrap();
        let listen = "127.0.0.1:12345".parse().unwrap();
        let outfit = outfit(&instance, &work, listen, &artifact, &layout).unwrap();
        let config = layout.work().join("etc/a.conf");
        assert_eq!(fs::read_to_string(&config).unwrap(), "listen 127.0.0.1:12345 as a-1-0");
        let program = artifact.join("bin/a").display().to_string();
        assert_eq!(outfit.command, [&program, "-p", "12345", "-c", &config.display().to_string()]);
        let check = artifact.join("./check").display().to_string();
        assert_eq!(outfit.ready_exec.unwrap(), [&check, "12345"]);
        assert_eq!(outfit.live_exec.unwrap(), ["true"]);
        assert_eq!(outfit.env["PORT"], "12345", "the manifest cannot change it");
        assert_eq!(outfit.env["V"], "1.2.3");
        assert_eq!(outfit.env["AETHER_SLICE"], "org.example:a@blue");
        assert_eq!(outfit.env["D"], artifact.display().to_string());
        let names: Vec<_> = outfit.env.keys().map(String::as_str).collect();
        let expected =
            ["AETHER_INSTANCE", "AETHER_SLICE", "AETHER_VERSION", "D", "HOST", "PATH", "PORT", "V"];
        assert_eq!(names, expected, "nothing of the agent's own environment");
    }

    #[test]
    fn what_was_pushed_takes_the_place_of_the_artifact_s_and_comes_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let artifact = dir.path().join("artifact");
        fs::create_dir_all(artifact.join("etc")).unwrap();
        fs::write(artifact.join("etc/a.conf"), "the artifact's").unwrap();
        fs::write(artifact.join("etc/kept.conf"), "on ${PORT}").unwrap();
        let layout = Layout::new(dir.path().join("instance"));
        let work = configured(
            "command=['a']\nconfig_files=['etc/a.conf','etc/kept.conf','new.conf']\n\
             env={ MODE='manifest', KEPT='1' }",
            &[("etc/a.conf", "pushed ${PORT}"), ("new.conf", "${VERSION}"), ("b/c/d", "${PORT}")],
            &[("MODE", "pushed ${PORT}"), ("PORT", "1")],
        );
        let instance: InstanceId = "a-1-0".parse().unwrap();
        let listen = "127.0.0.1:12345".parse().unwrap();
        // Twice: an instance that is started again finds its files there.
        for _ in 0..2 {
            let outfit = outfit(&instance, &work, listen, &artifact, &layout).unwrap();
            assert_eq!(outfit.env["MODE"], "pushed 12345");
            assert_eq!((&*outfit.env["KEPT"], &*outfit.env["PORT"]), ("1", "12345"));
            for (name, content) in [
                ("etc/a.conf", "pushed 12345"),
                ("etc/kept.conf", "on 12345"),
                ("new.conf", "1.2.3"),
                // Not listed: it may be the slice's own way of naming things.
                ("b/c/d", "${PORT}"),
            ] {
                let path = layout.work().join(name);
                assert_eq!(fs::read_to_string(&path).unwrap(), content, "{name}");
                let mode = std::os::unix::fs::PermissionsExt::mode(
                    &fs::metadata(&path).unwrap().permissions(),
                );
                assert_eq!(mode & 0o777, 0o644, "{name}");
            }
            assert_eq!(fs::read_dir(layout.work()).unwrap().count(), 3, "nothing is left behind");
        }
        assert_eq!(
            fs::read_to_string(artifact.join("etc/a.conf")).unwrap(),
            "the artifact's",
            "others use it too"
        );
    }

    #[test]
    fn what_was_pushed_is_not_written_through_a_link_that_the_slice_made() {
        let dir = tempfile::tempdir().unwrap();
        let (artifact, out) = (dir.path().join("artifact"), dir.path().join("out"));
        fs::create_dir_all(&artifact).unwrap();
        fs::create_dir_all(&out).unwrap();
        let layout = Layout::new(dir.path().join("instance"));
        fs::create_dir_all(layout.work()).unwrap();
        std::os::unix::fs::symlink(&out, layout.work().join("etc")).unwrap();
        fs::write(out.join("b"), "before").unwrap();
        std::os::unix::fs::symlink(out.join("b"), layout.work().join("b")).unwrap();
        let instance: InstanceId = "a-1-0".parse().unwrap();
        let listen = "127.0.0.1:1".parse().unwrap();
        let through = configured("command=['a']", &[("etc/a", "x")], &[]);
        let reason = outfit(&instance, &through, listen, &artifact, &layout).unwrap_err();
        assert_eq!(reason.code, "config_failed");
        assert!(reason.message.contains("is no directory"), "{}", reason.message);
        let over = configured("command=['a']", &[("b", "after")], &[]);
        outfit(&instance, &over, listen, &artifact, &layout).unwrap();
        assert_eq!(fs::read_to_string(out.join("b")).unwrap(), "before");
        assert_eq!(fs::read_to_string(layout.work().join("b")).unwrap(), "after");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    }

    #[test]
    fn a_config_file_that_is_missing_or_a_way_out_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let artifact = dir.path().join("artifact");
        fs::create_dir_all(&artifact).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", artifact.join("out")).unwrap();
        let layout = Layout::new(dir.path().join("instance"));
        for name in ["gone", "out"] {
            let work = work(&format!("command=['a']\nconfig_files=['{name}']"));
            let instance: InstanceId = "a-1-0".parse().unwrap();
            let listen = "127.0.0.1:1".parse().unwrap();
            let reason = outfit(&instance, &work, listen, &artifact, &layout).unwrap_err();
            assert_eq!(reason.code, "config_failed");
            assert!(reason.message.contains(name), "{}", reason.message);
        }
    }
}
