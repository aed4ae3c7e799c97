//! Schemas of what REST takes and gives beside the public messages: texts with
//! a grammar, and the headers of writes. The document is put together from them.

use std::borrow::Cow;

use aether_core::weights::DIGITS_MAX;
use aether_proto::v1;
use serde::Deserialize;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{RefOr, schema::SchemaFormat};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};

/// Group of coordinates, as `aether_core::coordinates` parses it.
const GROUP: &str = r"[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)+";
/// Words joined by single dashes.
const DASHED: &str = r"[a-z0-9]+(-[a-z0-9]+)*";
/// A part of a version. It fits into 64 bits.
const NUMBER: &str = r"(0|[1-9][0-9]{0,17})";

/// A number of instances, or a share.
const SHARE: &str = "([0-9]{1,5}|[1-9]?[0-9]%|100%)";

/// One step of a canary, with the spans of time that most are written in.
const STEP: &str = "([0-9]{1,4}:[0-9]{1,4}|[1-9][0-9]?%|100%)( (pause|[1-9][0-9]{0,3}(ms|s|m|h)))?";

fn version() -> String {
    let label = r"(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)";
    let build = r"[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*";
    let semver = format!(r"{NUMBER}(\.{NUMBER}){{2}}(-{label}(\.{label})*)?(\+{build})?");
    format!(r"({semver}|{NUMBER}(\.{NUMBER}){{3}})")
}

/// A text with a grammar: what it is, its pattern, its longest length.
struct Text {
    says: &'static str,
    pattern: String,
    most: usize,
    example: &'static str,
}

impl Text {
    fn schema(self) -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::Type(Type::String))
            .description(Some(self.says))
            .pattern(Some(format!("^{}$", self.pattern)))
            .min_length(Some(1))
            .max_length(Some(self.most))
            .examples([self.example])
            .into()
    }
}

macro_rules! texts {
    ($($name:ident: $text:expr;)*) => {$(
        /// A text with a grammar; its schema says which.
        pub(crate) struct $name;
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $text.schema()
            }
        }
        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )*};
}

texts! {
    UpdateId: Text {
        says: "An update: its id, a unique prefix of one, or `current` when exactly one is live.",
        pattern: "[a-z0-9]+".to_owned(),
        most: 64,
        example: "current",
    };
    SliceName: Text {
        says: "A slice: `group:artifact[@env]`.",
        pattern: format!("{GROUP}:{DASHED}(@{DASHED})?"),
        most: 200,
        example: "org.example:my-slice",
    };
    Version: Text {
        says: "A version: semver, or four numbers.",
        pattern: version(),
        most: 200,
        example: "2.0.0",
    };
    ArtifactName: Text {
        says: "An artifact: `group:artifact:version`.",
        pattern: format!("{GROUP}:{DASHED}:{}", version()),
        most: 200,
        example: "org.example:my-slice:2.0.0",
    };
    ArtifactBase: Text {
        says: "An artifact without its version: `group:artifact`.",
        pattern: format!("{GROUP}:{DASHED}"),
        most: 200,
        example: "org.example:my-slice",
    };
    Deployable: Text {
        says: "A version of a slice: `group:artifact:version[@env]`.",
        pattern: format!("{GROUP}:{DASHED}:{}(@{DASHED})?", version()),
        most: 200,
        example: "org.example:my-slice:1.0.0",
    };
    NodeName: Text {
        says: "A node, by the name that its configuration gives it.",
        pattern: "[A-Za-z0-9_-][A-Za-z0-9._-]*".to_owned(),
        most: 64,
        example: "n0",
    };
    PeerAddress: Text {
        says: "A peer listener: host:port.",
        pattern: "[A-Za-z0-9.-]+:[1-9][0-9]{0,3}".to_owned(),
        most: 100,
        example: "10.0.0.4:8091",
    };
    Ratio: Text {
        says: "A ratio new:old, each at most 10000 once reduced, not both 0.",
        pattern: format!("[0-9]{{1,{DIGITS_MAX}}}:[0-9]{{1,{DIGITS_MAX}}}"),
        most: 2 * DIGITS_MAX + 1,
        example: "1:3",
    };
    Sha256: Text {
        says: "A sha256 in lower-case hexadecimal digits.",
        pattern: "[0-9a-f]{64}".to_owned(),
        most: 64,
        example: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    };
    CleanupPolicy: Text {
        says: "What follows completion for the old version; upper or lower case.",
        pattern: "([Ii][Mm][Mm][Ee][Dd][Ii][Aa][Tt][Ee]|\
                  [Gg][Rr][Aa][Cc][Ee]_[Pp][Ee][Rr][Ii][Oo][Dd]|[Mm][Aa][Nn][Uu][Aa][Ll])"
            .to_owned(),
        most: 12,
        example: "GRACE_PERIOD",
    };
    Preset: Text {
        says: "Thresholds by name: default, strict or relaxed; upper or lower case.",
        pattern: "([Dd][Ee][Ff][Aa][Uu][Ll][Tt]|[Ss][Tt][Rr][Ii][Cc][Tt]|\
                  [Rr][Ee][Ll][Aa][Xx][Ee][Dd])"
            .to_owned(),
        most: 7,
        example: "strict",
    };
    StrategyName: Text {
        says: "How an update goes; upper or lower case.",
        pattern: "([Mm][Aa][Nn][Uu][Aa][Ll]|[Cc][Aa][Nn][Aa][Rr][Yy]|\
                  [Bb][Ll][Uu][Ee]_[Gg][Rr][Ee][Ee][Nn]|[Rr][Oo][Ll][Ll][Ii][Nn][Gg]|\
                  [Rr][Ee][Cc][Rr][Ee][Aa][Tt][Ee])"
            .to_owned(),
        most: 10,
        example: "CANARY",
    };
    Steps: Text {
        says: "Steps, separated by commas: a ratio new:old or the new share in percent, then how \
               long it holds, `evidence` for until the comparison decides, or `pause` for until it is \
               promoted.",
        pattern: format!("{STEP}(, ?{STEP}){{0,99}}"),
        most: 2_000,
        example: "1:19 5m, 10% pause, 1:1, 1:0",
    };
    ConfigPick: Text {
        says: "A configuration of the slice: its number, or `latest`.",
        pattern: "(latest|c?[1-9][0-9]{0,8})".to_owned(),
        most: 10,
        example: "latest",
    };
    Share: Text {
        says: "A number of instances, or a share of them in percent.",
        pattern: SHARE.to_owned(),
        most: 5,
        example: "25%",
    };
    Shares: Text {
        says: "Sizes of batches, separated by commas.",
        pattern: format!("{SHARE}(, ?{SHARE}){{0,19}}"),
        most: 200,
        example: "1, 5%, 25%",
    };
    GateName: Text {
        says: "A gate.",
        pattern: "[a-z0-9_-]{1,40}".to_owned(),
        most: 40,
        example: "errors",
    };
    GateWhen: Text {
        says: "When a gate is asked: before or after; upper or lower case.",
        pattern: "([Bb][Ee][Ff][Oo][Rr][Ee]|[Aa][Ff][Tt][Ee][Rr])".to_owned(),
        most: 6,
        example: "BEFORE",
    };
    GateUrl: Text {
        says: "A URL. Not https: the nodes have no TLS client.",
        pattern: "http://[a-z0-9.-]+(:[1-9][0-9]{0,3})?(/[A-Za-z0-9/._?=&%-]*)?".to_owned(),
        most: 2_048,
        example: "http://127.0.0.1:9000/gate",
    };
    ServerUrl: Text {
        says: "The URL of a server, without a query. Not https: the nodes have no TLS client.",
        pattern: "http://[a-z0-9.-]+(:[1-9][0-9]{0,3})?(/[A-Za-z0-9/._%-]*)?".to_owned(),
        most: 2_048,
        example: "http://prometheus:9090",
    };
    GateCondition: Text {
        says: "A comparison with a number.",
        pattern: "(<|<=|>|>=|==|!=) ?-?[0-9]{1,15}(\\.[0-9]{1,15})?".to_owned(),
        most: 40,
        example: "< 0.05",
    };
    ProgramPath: Text {
        says: "The absolute path of a program.",
        pattern: "/[A-Za-z0-9/._-]+".to_owned(),
        most: 1_024,
        example: "/opt/smoke",
    };
    StepFailure: Text {
        says: "What follows when a step fails; upper or lower case.",
        pattern: "([Rr][Oo][Ll][Ll][Bb][Aa][Cc][Kk]|[Pp][Aa][Uu][Ss][Ee])".to_owned(),
        most: 8,
        example: "ROLLBACK",
    };
    DeployFailure: Text {
        says: "What follows when the new version does not deploy; upper or lower case.",
        pattern: "([Rr][Oo][Ll][Ll][Bb][Aa][Cc][Kk]|[Pp][Aa][Uu][Ss][Ee]|[Ff][Aa][Ii][Ll])"
            .to_owned(),
        most: 8,
        example: "ROLLBACK",
    };
}

/// The schema of raw bytes.
pub(crate) struct Archive;

impl PartialSchema for Archive {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::Type(Type::String))
            .format(Some(SchemaFormat::Custom("binary".to_owned())))
            .description(Some("A tar.gz with a slice.toml."))
            .into()
    }
}

impl ToSchema for Archive {
    fn name() -> Cow<'static, str> {
        "Archive".into()
    }
}

/// An error: RFC 9457, with a machine-readable `code`.
#[derive(ToSchema)]
#[allow(dead_code)] // Only its schema is used; `problem.rs` writes it.
pub(crate) struct Problem {
    /// `urn:aether:problem:` and the code.
    r#type: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What failed, on what, and what to do next.
    detail: String,
    /// What programs tell errors apart by, such as `capacity_guard`.
    code: String,
    /// The same as `detail`, for scripts written against the Java system.
    error: String,
}

/// A body without members.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmptyBody {}

/// Headers of a write.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)] // Only its schema is used; `Caller` reads it.
pub(crate) struct WriteHeaders {
    /// Makes a retry of this very request idempotent: the same key with the same
    /// request gives the same answer, at every node and after a failover; with
    /// another request it is refused as `request_reused`. What was refused is not
    /// remembered: the same key may be used again once its reason is gone.
    #[param(
        rename = "Idempotency-Key",
        required = false,
        min_length = 1,
        max_length = 64,
        pattern = "^[!-~]+$"
    )]
    idempotency_key: Option<String>,
    /// Who asks, for the history; `rest` if absent.
    #[param(
        rename = "Aether-Actor",
        required = false,
        min_length = 1,
        max_length = 64,
        pattern = "^[!-~]+$"
    )]
    actor: Option<String>,
}

/// What a write of an update answers.
#[derive(IntoResponses)]
#[response(
    status = 200, description = "The update after it.",
    headers(("ETag" = String, description = "For If-Match."))
)]
#[allow(dead_code)] // Only its schema is used.
pub(crate) struct ChangedUpdate(v1::Update);

/// The precondition of a write of an update.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)] // Only its schema is used; `Caller` reads it.
pub(crate) struct IfMatch {
    /// ETags of the update that the caller decided on, as GET gave them, or `*`.
    /// Refused as `modified` (412) if the record was changed since. A weak ETag
    /// matches nothing here.
    #[param(
        rename = "If-Match",
        min_length = 1,
        required = false,
        pattern = r#"^(\*|"[0-9]{1,18}"(, "[0-9]{1,18}"){0,3})$"#
    )]
    if_match: Option<String>,
}

/// What the caller has already.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)] // Only its schema is used; the handlers read it.
pub(crate) struct IfNoneMatch {
    /// ETags that the caller has; if the present one is among them, the answer
    /// is 304 without a body.
    #[param(
        rename = "If-None-Match",
        min_length = 1,
        required = false,
        pattern = r#"^(\*|(W/)?"[!#-~]{1,80}")$"#
    )]
    if_none_match: Option<String>,
}

/// The digest of an archive, checked against what arrives.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)] // Only its schema is used; `digest.rs` reads it.
pub(crate) struct Digests {
    /// RFC 9530: the `sha-256` of the archive.
    #[param(
        rename = "Repr-Digest",
        required = false,
        pattern = "^sha-256=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:$"
    )]
    repr_digest: Option<String>,
    /// Likewise: what is sent is the archive.
    #[param(
        rename = "Content-Digest",
        required = false,
        pattern = "^sha-256=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:$"
    )]
    content_digest: Option<String>,
}

/// The update in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)] // Only its schema is used; `UpdateRef` reads it.
pub(crate) struct InUpdate {
    /// The update.
    #[param(inline, value_type = UpdateId)]
    id: String,
}

/// The slice in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)] // Only its schema is used; `SliceRef` reads it.
pub(crate) struct InSlice {
    /// The slice; `:` and `@` may be given plain or percent-encoded.
    #[param(inline, value_type = SliceName)]
    slice: String,
}

/// The artifact in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)] // Only its schema is used; `ArtifactRef` reads it.
pub(crate) struct InArtifact {
    /// The artifact; `:` and `+` may be given plain or percent-encoded.
    #[param(inline, value_type = ArtifactName)]
    artifact: String,
}

/// The record in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)] // Only its schema is used; `kv::Key` reads it.
pub(crate) struct InKey {
    /// The key; its slashes may stand as they are.
    key: String,
}

/// The node in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)] // Only its schema is used; `NodeRef` reads it.
pub(crate) struct InNode {
    /// The node.
    #[param(inline, value_type = NodeName)]
    name: String,
}
