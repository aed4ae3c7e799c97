//! The OpenAPI document: what the routes say of themselves, made as strict as
//! what is really taken and sent, with the problems that any of them may answer.

use serde_json::{Map, Value, json};
use utoipa::PartialSchema;
use utoipa::openapi::{InfoBuilder, License, OpenApi, OpenApiBuilder, PathsBuilder};

use crate::schema;

const DESCRIPTION: &str = "\
Keeps services running while their versions change.

The paths under `/rolling-update` exist a second time under `/api`. Every error is \
`application/problem+json` with a machine-readable `code`. A path answers a method that it \
does not take with 405 and `Allow`, and OPTIONS with 204 and `Allow`; GET takes HEAD too. \
Bodies are taken as they are: one with a `Content-Encoding` is refused (415).";

/// What the routes are merged into.
pub(crate) fn base() -> OpenApi {
    let mut license = License::new("Apache-2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    let info = InfoBuilder::new()
        .title("Aether")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(license));
    OpenApiBuilder::new().info(info).paths(PathsBuilder::new()).build()
}

/// The document of a router.
///
/// # Panics
/// Never: the document is data of this crate's own making.
pub(crate) fn document(api: &OpenApi) -> Value {
    let mut document = serde_json::to_value(api).expect("the document is plain data");
    let schemas = members(&mut document["components"]["schemas"]);
    let problem = serde_json::to_value(schema::Problem::schema()).expect("a schema is plain data");
    schemas.insert("Problem".to_owned(), problem);
    for (name, schema) in schemas.iter_mut() {
        described_once(schema);
        close(schema);
        // Answers leave out what is absent; a request may say null as well.
        if !name.ends_with("Body") {
            without_nulls(schema);
        }
    }
    let paths = members(&mut document["paths"]);
    for (path, item) in std::mem::take(paths) {
        // The router's way to say that a parameter takes slashes too.
        paths.insert(path.replace("{*", "{"), item);
    }
    for (path, item) in members(&mut document["paths"]) {
        for (method, operation) in members(item) {
            describe(path, method, operation);
        }
    }
    document
}

fn members(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was just made one")
}

/// A member whose type describes itself, and which says more, comes as both:
/// what it is, with what it says instead.
fn described_once(schema: &mut Value) {
    if let Some(Value::Array(parts)) = schema.get_mut("allOf")
        && let [what, says] = parts.as_mut_slice()
        && says.get("properties").is_none()
    {
        let (mut what, says) = (what.take(), says["description"].take());
        what["description"] = says;
        *schema = what;
    }
    match schema {
        Value::Object(members) => members.values_mut().for_each(described_once),
        Value::Array(parts) => parts.iter_mut().for_each(described_once),
        _ => {}
    }
}

/// An object has the members that are described and no others.
fn close(schema: &mut Value) {
    if let Some(members) = schema.as_object_mut() {
        if members.contains_key("properties") || members.get("type") == Some(&json!("object")) {
            members.entry("additionalProperties").or_insert(json!(false));
        }
        for (_, part) in members.iter_mut() {
            close(part);
        }
    } else if let Some(parts) = schema.as_array_mut() {
        parts.iter_mut().for_each(close);
    }
}

/// Takes `null` away where it is one of several types.
fn without_nulls(schema: &mut Value) {
    if let Some(members) = schema.as_object_mut() {
        if let Some(Value::Array(types)) = members.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [one] = types.as_slice() {
                let one = one.clone();
                members.insert("type".to_owned(), one);
            }
        }
        if let Some(Value::Array(choices)) = members.get_mut("oneOf") {
            choices.retain(|choice| choice["type"] != "null");
            if let [Value::Object(one)] = choices.as_slice() {
                let one = one.clone();
                members.remove("oneOf");
                for (name, value) in one {
                    members.entry(name).or_insert(value);
                }
            }
        }
        members.values_mut().for_each(without_nulls);
    } else if let Some(parts) = schema.as_array_mut() {
        parts.iter_mut().for_each(without_nulls);
    }
}

fn describe(path: &str, method: &str, operation: &mut Value) {
    if path.starts_with("/api/rolling-update") || path == "/api/events" {
        // Ids are unique in the document.
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        operation["operationId"] = format!("{id}UnderApi").into();
    }
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        without_nulls(&mut parameter["schema"]);
    }
    let has_body = operation.get("requestBody").is_some();
    if has_body {
        let content = members(&mut operation["requestBody"]["content"]);
        content.values_mut().for_each(|media| without_nulls(&mut media["schema"]));
    }
    let responses = members(&mut operation["responses"]);
    for (status, description) in problems(path, method, has_body) {
        responses.insert(status.to_owned(), problem(status, description));
    }
}

/// The problems that an operation may answer.
fn problems(path: &str, method: &str, has_body: bool) -> Vec<(&'static str, &'static str)> {
    let of_process = ["/health/", "/metrics", "/openapi.json", "/docs"];
    let of_process = of_process.iter().any(|start| path.starts_with(start));
    let mut all = vec![
        ("400", "The request cannot be understood; `code` and `detail` say what of it."),
        ("408", "The body came too slowly."),
        ("414", "The path and query are too long."),
        ("415", "The body is of a type, or packed in a way, that is not taken."),
        ("431", "The head has too many or too long headers."),
        ("500", "A fault of the server, which its log tells."),
    ];
    if path == "/health/ready" {
        all.push(("503", "It cannot; `detail` says why."));
    }
    if of_process {
        return all;
    }
    all.extend([
        ("404", "What the request names does not exist."),
        ("501", "The voter that was asked is older and does not know this."),
        ("503", "It was not done, and may be tried again."),
        ("504", "No answer in time; for a write, `outcome_unknown`: look before repeating it."),
    ]);
    if path.ends_with("/events") {
        all.push(("410", "The position is so old that events after it are gone."));
    }
    if has_body {
        all.push(("413", "The body is too long."));
    }
    if method != "get" {
        all.extend([
            ("409", "The present state does not allow it; `code` says why."),
            ("412", "The record is not the one that If-Match names."),
            ("429", "Too much is asked at once."),
        ]);
    }
    all
}

fn problem(status: &str, description: &str) -> Value {
    let mut response = json!({
        "description": description,
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        },
    });
    if status == "503" {
        response["headers"]["Retry-After"] =
            json!({"description": "Seconds until another try.", "schema": {"type": "string"}});
    }
    response
}
