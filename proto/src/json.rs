//! JSON as people see it: camelCase, without members that are absent.

use serde::Serialize;
use serde_json::Value;

/// A public message as JSON, absent optional members left out.
///
/// # Panics
/// Never for the generated messages: they hold no map with non-text keys.
pub fn to_json<T: Serialize>(message: &T) -> Value {
    let mut value = serde_json::to_value(message).expect("generated messages serialise");
    strip_nulls(&mut value);
    value
}

fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}
