//! TLS towards clients: certificates from files, chosen by the name that a client
//! asks for, and read again when the files change.
//!
//! A pair that cannot be read or does not fit together is refused at the start.
//! Later it is said, and the last good one goes on serving: a renewal that went
//! wrong takes nobody off the air before the old certificate ends.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use thiserror::Error;

/// Most certificates of one ingress. Each client that names a host has them looked
/// at one after the other.
pub const CERTIFICATES_MAX: usize = 64;

/// Largest file of a certificate or a key: chains have a few KiB.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// The files of one certificate, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, and those that lead from it to a root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How TLS is spoken. [`TlsConfig::new`] sets the defaults named below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The first that fits the name that a client asks for is used; the first of
    /// all where none fits, or no name is given.
    pub certificates: Vec<CertificateFiles>,
    /// How long a client may take for its handshake (10 s).
    pub handshake_timeout: Duration,
    /// How often it is looked whether the files have changed (5 s).
    pub reload_interval: Duration,
}

impl TlsConfig {
    /// A configuration with the defaults.
    pub fn new(certificates: Vec<CertificateFiles>) -> Self {
        Self {
            certificates,
            handshake_timeout: Duration::from_secs(10),
            reload_interval: Duration::from_secs(5),
        }
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TlsError {
    /// None, or too many.
    #[error("tls.certificates names {given} certificates; give 1 to {max}")]
    Count {
        /// How many were given.
        given: usize,
        /// How many are accepted.
        max: usize,
    },
    /// A file that cannot be read.
    #[error("cannot read {}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A certificate and a key that serve no connection.
    #[error("{} and {} cannot be used: {problem}", files.certificate.display(), files.key.display())]
    Pair {
        /// The files.
        files: CertificateFiles,
        /// What is wrong with them.
        problem: String,
    },
}

/// What is known of the certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsStatus {
    /// How many pairs have been taken from files, those at the start included.
    pub loads: u64,
    /// What is wrong with files that have changed since; the pairs that they had
    /// before go on serving.
    pub problems: Vec<TlsError>,
}

/// One certificate and what its files were when it was last looked.
#[derive(Debug)]
struct Entry {
    files: CertificateFiles,
    /// Of the content of both files.
    seen: u64,
    key: Arc<CertifiedKey>,
    problem: Option<TlsError>,
}

#[derive(Debug)]
struct Entries {
    all: Vec<Entry>,
    loads: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Certificates {
    entries: Mutex<Entries>,
    /// What handshakes choose from.
    current: ArcSwap<Vec<Arc<CertifiedKey>>>,
    provider: Arc<CryptoProvider>,
}

impl Certificates {
    /// Reads all files.
    ///
    /// # Errors
    /// If any pair cannot be used.
    pub(crate) fn load(config: &TlsConfig) -> Result<Arc<Self>, TlsError> {
        let given = config.certificates.len();
        if !(1..=CERTIFICATES_MAX).contains(&given) {
            return Err(TlsError::Count { given, max: CERTIFICATES_MAX });
        }
        let provider = Arc::new(ring::default_provider());
        let load = |files: &CertificateFiles| {
            let pem = Pem::read(files)?;
            let key = Arc::new(pem.key(files, &provider)?);
            Ok(Entry { files: files.clone(), seen: pem.hash(), key, problem: None })
        };
        let all: Vec<Entry> =
            config.certificates.iter().map(load).collect::<Result<_, TlsError>>()?;
        let current = ArcSwap::from_pointee(keys(&all));
        let entries = Mutex::new(Entries { loads: all.len() as u64, all });
        Ok(Arc::new(Self { entries, current, provider }))
    }

    /// What speaks TLS with them.
    pub(crate) fn server_config(self: &Arc<Self>) -> rustls::ServerConfig {
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .expect("ring offers what the default versions need");
        let mut config =
            builder.with_no_client_auth().with_cert_resolver(Arc::clone(self) as Arc<_>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().expect("no code panics while it holds the certificates")
    }

    /// Reads the files again, and takes what has changed and can be used. Blocks for
    /// as long as the files take.
    pub(crate) fn reload(&self) -> TlsStatus {
        let mut entries = self.entries();
        let mut loads = 0;
        for entry in &mut entries.all {
            let pem = match Pem::read(&entry.files) {
                Ok(pem) if pem.hash() == entry.seen && entry.problem.is_none() => continue,
                Ok(pem) => pem,
                Err(error) => {
                    entry.note(error);
                    continue;
                }
            };
            match pem.key(&entry.files, &self.provider) {
                Ok(key) => {
                    let (certificate, names) = (entry.files.certificate.display(), key.cert.len());
                    tracing::info!(%certificate, chain = names, "a certificate has been read");
                    (entry.key, entry.seen, entry.problem) = (Arc::new(key), pem.hash(), None);
                    loads += 1;
                }
                Err(error) => entry.note(error),
            }
        }
        if loads > 0 {
            entries.loads += loads;
            self.current.store(Arc::new(keys(&entries.all)));
        }
        entries.status()
    }

    /// What is known without a look at the files.
    pub(crate) fn status(&self) -> TlsStatus {
        self.entries().status()
    }
}

fn keys(entries: &[Entry]) -> Vec<Arc<CertifiedKey>> {
    entries.iter().map(|entry| Arc::clone(&entry.key)).collect()
}

impl Entries {
    fn status(&self) -> TlsStatus {
        let problems = self.all.iter().filter_map(|entry| entry.problem.clone()).collect();
        TlsStatus { loads: self.loads, problems }
    }
}

impl Entry {
    /// Says what is wrong, once.
    fn note(&mut self, error: TlsError) {
        if self.problem.as_ref() != Some(&error) {
            tracing::warn!(%error, "a changed certificate is not used; the one before goes on serving");
            self.problem = Some(error);
        }
    }
}

/// The content of both files.
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Pem {
    fn read(files: &CertificateFiles) -> Result<Self, TlsError> {
        Ok(Self { certificate: read(&files.certificate)?, key: read(&files.key)? })
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.certificate, &self.key).hash(&mut hasher);
        hasher.finish()
    }

    fn key(
        &self,
        files: &CertificateFiles,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, TlsError> {
        let pair = |problem: String| TlsError::Pair { files: files.clone(), problem };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| pair(format!("the certificate is no PEM: {error}")))?;
        if chain.is_empty() {
            return Err(pair("there is no certificate in the first".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| pair(format!("there is no private key in the second: {error}")))?;
        let key = CertifiedKey::from_der(chain, key, provider)
            .map_err(|error| pair(error.to_string()))?;
        key.end_entity_cert()
            .and_then(|certificate| ParsedCertificate::try_from(certificate).map(drop))
            .map_err(|error| pair(error.to_string()))?;
        Ok(key)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let file = |problem: String| TlsError::File { path: path.to_owned(), problem };
    let failed = |error: io::Error| file(error.to_string());
    // Looked at before it is opened: opening a pipe may wait for ever.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(file("it is no file".to_owned()));
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path).map_err(failed)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(file(format!("it is too long; at most {FILE_BYTES_MAX} bytes are read")));
    }
    Ok(bytes)
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = |key: &&Arc<CertifiedKey>| {
            let parsed = key.end_entity_cert().and_then(ParsedCertificate::try_from);
            let named = name.as_ref().zip(parsed.ok());
            named.is_some_and(|(name, parsed)| verify_server_name(&parsed, name).is_ok())
        };
        let chosen = match current.len() {
            1 => None,
            _ => current.iter().find(fits),
        };
        chosen.or(current.first()).cloned()
    }
}
