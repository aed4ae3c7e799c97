//! Gates of a new update.

use aether_proto::v1;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::options::named;
use crate::schema;

/// Somebody outside who is asked before an update goes on. Exactly one of
/// `prometheus`, `webhook` and `command` says who.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GateBody {
    /// Unique within the update. Its kind and its place in the list, such as
    /// `webhook-1`, if absent.
    #[schema(inline, value_type = Option<schema::GateName>)]
    #[serde(default, deserialize_with = "named")]
    name: Option<String>,
    /// Before a step is entered, or after it held and before it is left.
    #[schema(inline, value_type = schema::GateWhen)]
    when: String,
    /// Number of the step that it is for, from 1; all of them if absent.
    #[schema(minimum = 1, maximum = 1000)]
    step: Option<u32>,
    prometheus: Option<PrometheusBody>,
    webhook: Option<WebhookBody>,
    command: Option<CommandBody>,
    /// How long an answer may take, milliseconds; 10000 if absent.
    #[schema(minimum = 1, maximum = 300000)]
    timeout_ms: Option<u64>,
    /// How long after an answer that was not a pass it is asked again,
    /// milliseconds; 30000 if absent.
    #[schema(minimum = 100, maximum = 86400000u64)]
    interval_ms: Option<u64>,
    /// Failed measurements that are tolerated for a step; 0 if absent.
    #[schema(maximum = 100)]
    failures_max: Option<u32>,
    /// Inconclusive ones; 3 if absent. One more pauses the update.
    #[schema(maximum = 100)]
    inconclusive_max: Option<u32>,
}

/// A query to a Prometheus server. Every sample has to meet the condition; none at
/// all, or NaN, is inconclusive.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PrometheusBody {
    /// Of the server.
    #[schema(inline, value_type = schema::ServerUrl)]
    url: String,
    /// PromQL.
    #[schema(min_length = 1, max_length = 4096)]
    query: String,
    /// What every sample has to be.
    #[schema(inline, value_type = schema::GateCondition)]
    condition: String,
}

/// An HTTP POST with a JSON body that says where the update is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WebhookBody {
    /// Where to.
    #[schema(inline, value_type = schema::GateUrl)]
    url: String,
}

/// A program on the leader's node, which its configuration has to list.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CommandBody {
    /// Its absolute path.
    #[schema(inline, value_type = schema::ProgramPath)]
    program: String,
    /// No shell looks at them.
    #[schema(max_items = 32)]
    arguments: Option<Vec<String>>,
}

impl GateBody {
    pub(crate) fn message(self) -> v1::Gate {
        let prometheus = self.prometheus.map(|asked| v1::PrometheusGate {
            url: asked.url,
            query: asked.query,
            condition: asked.condition,
        });
        let command = self.command.map(|asked| v1::CommandGate {
            program: asked.program,
            arguments: asked.arguments.unwrap_or_default(),
        });
        v1::Gate {
            name: self.name.unwrap_or_default(),
            when: self.when,
            step: self.step,
            prometheus,
            webhook: self.webhook.map(|asked| v1::WebhookGate { url: asked.url }),
            command,
            timeout_ms: self.timeout_ms,
            interval_ms: self.interval_ms,
            failures_max: self.failures_max,
            inconclusive_max: self.inconclusive_max,
        }
    }
}
