//! A gate that is an HTTP server: it is told where the update is, and judges.

use aether_core::planner::Measurement;
use aether_core::records::{GateVerdict, HttpUrl};
use serde::{Deserialize, Serialize};

use super::http::{Post, post};
use super::inconclusive;

/// What a receiver is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    gate: &'a str,
    /// The same for each repetition of this measurement, as in the header.
    measurement: &'a str,
    update: &'a str,
    slice: String,
    /// Absent in a first deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    from_version: Option<&'a str>,
    to_version: &'a str,
    when: &'a str,
    step: u32,
    steps: u32,
    /// Weights new:old, as they are and as they are in that step.
    weights: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    step_weights: Option<String>,
    phase: &'a str,
    attempt: u32,
}

/// Asks the receiver.
pub async fn ask(url: &str, measurement: &Measurement) -> (GateVerdict, String) {
    let url = match HttpUrl::parse(url) {
        Ok(url) => url,
        Err(problem) => return inconclusive(problem),
    };
    let key = measurement.key();
    let told = Told {
        gate: &measurement.gate.name,
        measurement: &key,
        update: measurement.update.as_str(),
        slice: measurement.slice.to_string(),
        from_version: measurement.from.as_ref().map(|version| version.as_str()),
        to_version: measurement.to.as_str(),
        when: measurement.gate.when.as_str(),
        step: measurement.step,
        steps: measurement.last_step,
        weights: measurement.weights.to_string(),
        step_weights: measurement.weights_of_step.map(|weights| weights.to_string()),
        phase: measurement.state.as_str(),
        attempt: measurement.number,
    };
    let Ok(body) = serde_json::to_string(&told) else { return inconclusive("it cannot be told") };
    let path = url.path;
    let answered = post(Post {
        url,
        path,
        content_type: "application/json",
        idempotency_key: Some(&key),
        body,
    })
    .await;
    match answered {
        Ok((status, body)) => judge(status, &body),
        Err(why) => inconclusive(why),
    }
}

#[derive(Deserialize, Default)]
struct Answer {
    #[serde(default)]
    verdict: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

/// What an answer means.
pub fn judge(status: u16, body: &[u8]) -> (GateVerdict, String) {
    let is_empty = body.iter().all(u8::is_ascii_whitespace);
    let answer = match is_empty {
        true => Some(Answer::default()),
        false => serde_json::from_slice::<Answer>(body).ok(),
    };
    let said = |answer: Option<Answer>| {
        let message = answer.and_then(|answer| answer.message).unwrap_or_default();
        if message.is_empty() { format!("status {status}") } else { message }
    };
    match status {
        200..=299 => {
            // The page of some other server is no pass.
            let Some(answer) = answer else {
                return inconclusive(format!("status {status}, and the answer is not JSON"));
            };
            let verdict = match answer.verdict.as_deref().map(str::to_ascii_lowercase).as_deref() {
                None | Some("pass") => GateVerdict::Pass,
                Some("fail") => GateVerdict::Fail,
                Some("inconclusive") => GateVerdict::Inconclusive,
                Some(other) => {
                    let short: String = other.chars().take(20).collect();
                    let why = format!("verdict '{short}' is none of pass, fail, inconclusive");
                    return inconclusive(why);
                }
            };
            (verdict, said(Some(answer)))
        }
        // Come back later.
        408 | 429 => inconclusive(said(answer)),
        400..=499 => (GateVerdict::Fail, said(answer)),
        300..=399 => inconclusive(format!("status {status}: redirects are not followed")),
        _ => inconclusive(said(answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_verdict_say_what_it_means() {
        use GateVerdict::{Fail, Inconclusive, Pass};
        for (status, body, verdict, message) in [
            (200, "", Pass, "status 200"),
            (204, " \n", Pass, "status 204"),
            (200, "{}", Pass, "status 200"),
            (200, r#"{"verdict":"pass","message":"fine","more":1}"#, Pass, "fine"),
            (200, r#"{"verdict":"FAIL"}"#, Fail, "status 200"),
            (201, r#"{"verdict":"inconclusive","message":"later"}"#, Inconclusive, "later"),
            (200, r#"{"verdict":"perhaps"}"#, Inconclusive, "verdict 'perhaps' is none of"),
            (200, "<html>hello</html>", Inconclusive, "not JSON"),
            (200, "{\"verdict\":", Inconclusive, "not JSON"),
            (200, r#"{"verdict":1}"#, Inconclusive, "not JSON"),
            (403, r#"{"message":"no"}"#, Fail, "no"),
            (404, "<html>", Fail, "status 404"),
            (408, "", Inconclusive, "status 408"),
            (429, "", Inconclusive, "status 429"),
            (302, "", Inconclusive, "redirects"),
            (500, r#"{"verdict":"pass"}"#, Inconclusive, "status 500"),
        ] {
            let judged = judge(status, body.as_bytes());
            assert_eq!(judged.0, verdict, "{status} {body}");
            assert!(judged.1.contains(message), "{status} {body}: {}", judged.1);
        }
    }
}
