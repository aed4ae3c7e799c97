//! A gate that is a query to a Prometheus server, and a condition on what it
//! gives.

use aether_core::records::{Condition, GateVerdict, HttpUrl};
use serde::Deserialize;
use serde_json::Value;

use super::http::{Post, post};
use super::inconclusive;

/// Asks the server for the present value.
pub async fn ask(url: &str, query: &str, condition: &str) -> (GateVerdict, String) {
    // Both were checked at the start of the update.
    let (url, condition) = match (HttpUrl::parse(url), condition.parse::<Condition>()) {
        (Ok(url), Ok(parsed)) => (url, (parsed, condition)),
        (Err(problem), _) | (_, Err(problem)) => return inconclusive(problem),
    };
    let path = format!("{}/api/v1/query", url.path.trim_end_matches('/'));
    let answered = post(Post {
        url,
        path: &path,
        content_type: "application/x-www-form-urlencoded",
        idempotency_key: None,
        body: format!("query={}", percent_encoded(query)),
    })
    .await;
    match answered {
        Ok((status, body)) => judge(status, &body, condition),
        Err(why) => inconclusive(why),
    }
}

/// As a form has it: everything but what is safe everywhere is encoded.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(byte.into());
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: String,
    #[serde(default)]
    data: Data,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(default)]
    result_type: String,
    #[serde(default)]
    result: Value,
}

/// What an answer of the HTTP API means for a condition.
pub fn judge(status: u16, body: &[u8], condition: (Condition, &str)) -> (GateVerdict, String) {
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        return inconclusive(format!("status {status}, and the answer is not Prometheus's JSON"));
    };
    if status != 200 {
        // A query that cannot be carried out says nothing about the version.
        return inconclusive(format!("status {status}: {}", answer.error));
    }
    let figures = match figures(&answer.data) {
        Ok(figures) => figures,
        Err(why) => return inconclusive(why),
    };
    let (condition, text) = condition;
    let mut shown = Vec::new();
    let mut fails = false;
    for figure in &figures {
        match condition.holds(*figure) {
            None => return inconclusive(format!("{figure} is no number to compare")),
            Some(true) => shown.push(figure),
            Some(false) if !fails => {
                fails = true;
                shown = vec![figure];
            }
            Some(false) => {}
        }
    }
    let Some(first) = shown.first() else { return inconclusive("no data") };
    let of = match figures.len() {
        1 => String::new(),
        several => format!(", one of {several} samples"),
    };
    match fails {
        true => (GateVerdict::Fail, format!("{first} is not {text}{of}")),
        false if figures.len() > 1 => {
            (GateVerdict::Pass, format!("all {} samples are {text}", figures.len()))
        }
        false => (GateVerdict::Pass, format!("{first} is {text}")),
    }
}

/// The samples of a result.
fn figures(data: &Data) -> Result<Vec<f64>, String> {
    let figure = |sample: &Value| {
        // A pair of the time and the value, which is a text.
        let text = sample.get(1)?.as_str()?;
        match text {
            "+Inf" | "Inf" => Some(f64::INFINITY),
            "-Inf" => Some(f64::NEG_INFINITY),
            text => text.parse().ok(),
        }
    };
    let found = match data.result_type.as_str() {
        "scalar" => figure(&data.result).map(|one| vec![one]),
        "vector" => data.result.as_array().and_then(|all| {
            all.iter().map(|sample| figure(sample.get("value")?)).collect::<Option<Vec<f64>>>()
        }),
        other => {
            let short: String = other.chars().take(20).collect();
            return Err(format!("a result of type '{short}'; it has to be a vector or a scalar"));
        }
    };
    found.ok_or_else(|| "the samples cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &str, text: &str) -> (GateVerdict, String) {
        judge(status, body.as_bytes(), (text.parse().unwrap(), text))
    }

    fn of(kind: &str, result: &str, text: &str) -> (GateVerdict, String) {
        let data = format!(r#"{{"resultType":"{kind}","result":{result}}}"#);
        judged(200, &format!(r#"{{"status":"success","data":{data}}}"#), text)
    }

    #[test]
    fn all_samples_have_to_meet_the_condition() {
        use GateVerdict::{Fail, Inconclusive, Pass};
        let one = r#"[{"metric":{},"value":[1.5,"0.01"]}]"#;
        assert_eq!(of("vector", one, "< 0.05"), (Pass, "0.01 is < 0.05".into()));
        assert_eq!(of("vector", one, "< 0.01"), (Fail, "0.01 is not < 0.01".into()));
        let two = r#"[{"value":[1,"0.01"]},{"value":[1,"7"]}]"#;
        let failed = (Fail, "7 is not < 0.05, one of 2 samples".to_owned());
        assert_eq!(of("vector", two, "< 0.05"), failed);
        assert_eq!(of("vector", two, "< 8"), (Pass, "all 2 samples are < 8".into()));
        assert_eq!(of("vector", "[]", "< 1"), (Inconclusive, "no data".into()));
        assert_eq!(of("scalar", r#"[1,"3"]"#, "== 3").0, Pass);
        assert_eq!(of("scalar", r#"[1,"NaN"]"#, "== 3").0, Inconclusive);
        // One that nobody can compare makes all of it so, whatever the others are.
        assert_eq!(
            of("vector", r#"[{"value":[1,"9"]},{"value":[1,"NaN"]}]"#, "< 1").0,
            Inconclusive
        );
        assert_eq!(of("scalar", r#"[1,"+Inf"]"#, "< 3").0, Fail);
        for (kind, result) in
            [("matrix", "[]"), ("", "null"), ("scalar", "[1]"), ("vector", "{}"), ("vector", "[1]")]
        {
            assert_eq!(of(kind, result, "< 1").0, Inconclusive, "{kind} {result}");
        }
    }

    #[test]
    fn what_is_no_answer_is_inconclusive_and_says_why() {
        let refused = judged(400, r#"{"status":"error","error":"parse error at 3"}"#, "< 1");
        assert_eq!(refused.1, "status 400: parse error at 3");
        for (status, body) in [(200, "<html>"), (200, ""), (200, "[]"), (503, "busy"), (200, "{}")]
        {
            assert_eq!(judged(status, body, "< 1").0, GateVerdict::Inconclusive, "{status} {body}");
        }
    }

    #[test]
    fn a_query_arrives_as_it_was_written() {
        assert_eq!(percent_encoded("a{b=\"c d\"}+é&"), "a%7Bb%3D%22c%20d%22%7D%2B%C3%A9%26");
    }
}
