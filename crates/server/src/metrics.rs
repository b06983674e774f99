//! What the service counts, in the text form of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use hublabio_runtime::node::NodeStatus;

use crate::heap::Heap;
use crate::state::App;

/// Upper ends of the buckets, in seconds.
const BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

#[derive(Clone, Debug, Default)]
struct Histogram {
    counts: [u64; BUCKETS.len()],
    sum: f64,
    count: u64,
}

impl Histogram {
    fn add(&mut self, seconds: f64) {
        for (count, end) in self.counts.iter_mut().zip(BUCKETS) {
            *count += u64::from(seconds <= end);
        }
        self.sum += seconds;
        self.count += 1;
    }

    fn write(&self, out: &mut String, name: &str) {
        for (count, end) in self.counts.iter().zip(BUCKETS) {
            let _ = writeln!(out, "{name}_bucket{{le=\"{end}\"}} {count}");
        }
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(out, "{name}_sum {}", self.sum);
        let _ = writeln!(out, "{name}_count {}", self.count);
    }
}

#[derive(Default)]
struct Counts {
    /// By route, method and status. Routes are those of the table, so that their number is bounded.
    requests: BTreeMap<(String, String, u16), u64>,
    duration: Histogram,
    first_token: Histogram,
    connections: u64,
    connections_refused: u64,
}

/// The service's counters.
#[derive(Default)]
pub struct Metrics {
    counts: Mutex<Counts>,
}

impl Metrics {
    fn with(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// An answer began to come so long after its request.
    pub fn first_token(&self, after: Duration) {
        self.with(|counts| counts.first_token.add(after.as_secs_f64()));
    }

    /// A connection was taken, or turned away.
    pub fn connection(&self, taken: bool) {
        self.with(|counts| {
            counts.connections += u64::from(taken);
            counts.connections_refused += u64::from(!taken);
        });
    }

    /// All of it, with what the node says of itself.
    pub fn text(&self, node: &NodeStatus, heap: &Heap, connections_open: usize) -> String {
        let mut out = String::new();
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        head(&mut out, "hublab_http_requests_total", "counter", "Requests by route, method and status.");
        for ((route, method, status), count) in &counts.requests {
            let _ = writeln!(
                out,
                "hublab_http_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}} {count}"
            );
        }
        head(&mut out, "hublab_http_request_seconds", "histogram", "Until a request's answer began.");
        counts.duration.write(&mut out, "hublab_http_request_seconds");
        head(&mut out, "hublab_first_token_seconds", "histogram", "From a request to the first token of its answer.");
        counts.first_token.write(&mut out, "hublab_first_token_seconds");
        let single = [
            ("hublab_connections_open", "gauge", "Connections that are open.", connections_open as u64),
            ("hublab_connections_total", "counter", "Connections that were taken.", counts.connections),
            ("hublab_connections_refused_total", "counter", "Connections over the limit.", counts.connections_refused),
            ("hublab_heap_bytes", "gauge", "Bytes that requests and history hold.", heap.taken() as u64),
            ("hublab_heap_limit_bytes", "gauge", "Bytes that they may hold.", heap.max() as u64),
            ("hublab_running", "gauge", "Answers that are computed.", node.work.running as u64),
            ("hublab_waiting", "gauge", "Requests that wait.", node.work.waiting as u64),
            ("hublab_answers_done_total", "counter", "Answers that ended well.", node.work.requests_done),
            ("hublab_answers_failed_total", "counter", "Answers that failed.", node.work.requests_failed),
            ("hublab_answers_cancelled_total", "counter", "Answers that were given up.", node.work.requests_cancelled),
            ("hublab_prompt_tokens_total", "counter", "Tokens of prompts that were computed.", node.work.prompt_tokens),
            ("hublab_generated_tokens_total", "counter", "Tokens that were generated.", node.work.generated_tokens),
            ("hublab_steps_total", "counter", "Passes that were computed.", node.work.steps),
            ("hublab_model_loads_total", "counter", "Models that were loaded.", node.work.loads),
            ("hublab_memory_limit_bytes", "gauge", "Bytes that models may take together.", node.max_memory),
        ];
        for (name, kind, help, value) in single {
            head(&mut out, name, kind, help);
            let _ = writeln!(out, "{name} {value}");
        }
        head(&mut out, "hublab_model_bytes", "gauge", "Bytes of a model in memory, by what they hold.");
        for model in &node.models {
            let name = label(&model.name);
            let _ = writeln!(out, "hublab_model_bytes{{model=\"{name}\",kind=\"weights\"}} {}", model.file_bytes);
            let _ = writeln!(out, "hublab_model_bytes{{model=\"{name}\",kind=\"context\"}} {}", model.kv_bytes);
        }
        out
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Counts every request.
pub async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let route = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned(),
        None => "other".to_owned(),
    };
    // A method may be any word that a client makes up.
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let response = next.run(request).await;
    let status = response.status().as_u16();
    app.metrics().with(|counts| {
        *counts.requests.entry((route, method, status)).or_default() += 1;
        counts.duration.add(start.elapsed().as_secs_f64());
    });
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_every_sample_under_its_type() {
        let metrics = Metrics::default();
        metrics.first_token(Duration::from_millis(30));
        metrics.first_token(Duration::from_secs(100));
        let text = metrics.text(&NodeStatus::default(), &Heap::new(1 << 20), 3);
        for line in [
            "hublab_first_token_seconds_bucket{le=\"0.025\"} 0",
            "hublab_first_token_seconds_bucket{le=\"0.05\"} 1",
            "hublab_first_token_seconds_bucket{le=\"60\"} 1",
            "hublab_first_token_seconds_bucket{le=\"+Inf\"} 2",
            "hublab_first_token_seconds_count 2",
            "hublab_connections_open 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let base =
                ["_bucket", "_sum", "_count"].iter().fold(name, |name, end| name.strip_suffix(end).unwrap_or(name));
            assert!(text.contains(&format!("# TYPE {base} ")) || text.contains(&format!("# TYPE {name} ")), "{line}");
        }
    }
}
