//! Holds answers against the OpenAPI document: it must describe the path, the
//! method, the status, the type, and every member of the body.

use http::Method;
use serde_json::Value;

use crate::support::Answer;

/// The document.
pub struct Contract(pub Value);

impl Contract {
    /// The path of the document that a request's path is one of.
    fn path_of(&self, path: &str) -> Option<&str> {
        let fits = |template: &str| {
            let (template, path): (Vec<_>, Vec<_>) =
                (template.split('/').collect(), path.split('/').collect());
            let one = |(part, given): (&&str, &&str)| part == given || part.starts_with('{');
            // A key has slashes.
            let is_key = template.last() == Some(&"{key}") && path.len() >= template.len();
            (is_key || template.len() == path.len()) && template.iter().zip(&path).all(one)
        };
        let templates = self.0["paths"].as_object().unwrap().keys();
        let mut found: Vec<&String> = templates.filter(|template| fits(template)).collect();
        // `/rolling-update/start` before `/rolling-update/{id}`.
        found.sort_by_key(|template| template.contains('{'));
        found.first().map(|template| template.as_str())
    }

    /// Panics when an answer is not as the document says.
    pub fn check(&self, method: &Method, path: &str, answer: &Answer) {
        let status = answer.status.as_u16();
        let what = format!("{method} {path}: {status}");
        let Some(template) = self.path_of(path) else {
            // An id that is empty is bad wherever an id stands.
            let no_id = status == 400 && path.contains("//");
            let known = status == 404 || path.starts_with("/docs") || no_id;
            assert!(known, "{what} is not described");
            return;
        };
        let method = if method == Method::HEAD { "get" } else { &*method.as_str().to_lowercase() };
        let operation = &self.0["paths"][template][method];
        if operation.is_null() {
            assert!([204, 404, 405].contains(&status), "{what} is not described");
            return;
        }
        let response = &operation["responses"][status.to_string()];
        assert!(response.is_object(), "{what} is not described: {}", answer.text);
        let kind = answer.header("content-type").split(';').next().unwrap_or_default();
        if answer.text.is_empty() {
            assert!(response["content"].is_null() || method == "get", "{what} has no body");
            return;
        }
        let schema = &response["content"][kind]["schema"];
        assert!(schema.is_object(), "{what}: {kind} is not described");
        if kind.ends_with("json") && kind != "application/x-ndjson" {
            self.body(&what, schema, &answer.json());
        }
    }

    fn body(&self, at: &str, schema: &Value, value: &Value) {
        if let Some(name) = schema["$ref"].as_str() {
            let schema = self.0.pointer(name.trim_start_matches('#'));
            return self.body(at, schema.unwrap_or_else(|| panic!("{at}: no {name}")), value);
        }
        let fits = match schema["type"].as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            // The document itself, and what a record holds, are described no further.
            _ => schema["enum"].is_null(),
        };
        assert!(fits, "{at}: {value} is not {schema}");
        if let Some(least) = schema["minimum"].as_f64() {
            assert!(value.as_f64().unwrap() >= least, "{at}: {value} is below {least}");
        }
        for (k, item) in value.as_array().into_iter().flatten().enumerate() {
            self.body(&format!("{at}[{k}]"), &schema["items"], item);
        }
        let Some(members) = value.as_object().filter(|_| schema["type"] == "object") else {
            return;
        };
        for (name, member) in members {
            let known = &schema["properties"][name];
            let more = &schema["additionalProperties"];
            let schema = if known.is_null() { more } else { known };
            assert!(schema.is_object(), "{at}.{name} is not described");
            self.body(&format!("{at}.{name}"), schema, member);
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(members.contains_key(name.as_str().unwrap()), "{at} has no {name}");
        }
    }
}
