//! The web page: a handful of files that lie in the binary, and the rules under which a browser may run them.
//!
//! The page asks nobody but this service and runs nothing but these files: the policy below forbids all else, text that is
//! made to markup included. Files are named by their content (`ETag`), so that a browser keeps what has not changed.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use crate::error::ApiError;
use crate::state::App;

/// What the page may do. `connect-src 'self'` is the only way out.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file of the page.
struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static [u8],
}

macro_rules! asset {
    ($name:literal, $kind:expr) => {
        Asset { name: $name, kind: $kind, content: include_bytes!(concat!("../../web/", $name)) }
    };
}

static ASSETS: [Asset; 17] = [
    asset!("index.html", HTML),
    asset!("style.css", "text/css; charset=utf-8"),
    asset!("icon.svg", "image/svg+xml"),
    asset!("api.js", SCRIPT),
    asset!("app.js", SCRIPT),
    asset!("choices.js", SCRIPT),
    asset!("composer.js", SCRIPT),
    asset!("dom.js", SCRIPT),
    asset!("highlight.js", SCRIPT),
    asset!("keeper.js", SCRIPT),
    asset!("markdown.js", SCRIPT),
    asset!("sidebar.js", SCRIPT),
    asset!("sse.js", SCRIPT),
    asset!("theme.js", SCRIPT),
    asset!("thread.js", SCRIPT),
    asset!("transfer.js", SCRIPT),
    asset!("tree.js", SCRIPT),
];

/// The paths of the page.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/", get(async |headers: HeaderMap| serve("index.html", &headers)))
        .route("/favicon.svg", get(async |headers: HeaderMap| serve("icon.svg", &headers)))
        .route("/assets/{name}", get(async |Path(name): Path<String>, headers: HeaderMap| serve(&name, &headers)))
}

/// A file, or 304 where the browser has it.
fn serve(name: &str, headers: &HeaderMap) -> Response {
    static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| ASSETS.iter().map(tag).collect());
    let Some(index) = ASSETS.iter().position(|asset| asset.name == name) else {
        return ApiError::not_found("the page has no such file").into_response();
    };
    let (asset, tag) = (&ASSETS[index], &TAGS[index]);
    let mut response = if has(headers, tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, asset.kind)], asset.content).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag.clone());
    // Kept, and asked about each time: a new program brings a new page.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

fn tag(asset: &Asset) -> HeaderValue {
    // Without keys of its own, this hash is the same in every run.
    let mut hasher = DefaultHasher::new();
    hasher.write(asset.content);
    HeaderValue::from_str(&format!("\"{:016x}\"", hasher.finish())).expect("hexadecimal digits are a header")
}

/// Whether the browser says that it has this version.
fn has(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given
        .flat_map(|value| value.split(','))
        .map(|value| value.trim().trim_start_matches("W/"))
        .any(|value| value == "*" || tag.to_str().is_ok_and(|tag| tag == value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(name: &str, known: Option<&str>) -> Response {
        let mut headers = HeaderMap::new();
        if let Some(known) = known {
            headers.insert(header::IF_NONE_MATCH, known.parse().unwrap());
        }
        serve(name, &headers)
    }

    #[test]
    fn every_file_of_the_folder_is_served_under_the_policy() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/web")).unwrap();
        let mut names: Vec<String> = folder.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let mut served: Vec<&str> = ASSETS.iter().map(|asset| asset.name).collect();
        served.sort_unstable();
        assert_eq!(names, served);
        for name in served {
            let response = get(name, None);
            assert_eq!(response.status(), 200, "{name}");
            assert_eq!(response.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
            assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        }
    }

    #[test]
    fn what_a_browser_has_is_not_sent_again() {
        let first = get("app.js", None);
        assert_eq!(first.headers()[header::CONTENT_TYPE], SCRIPT);
        let tag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".into()] {
            assert_eq!(get("app.js", Some(&known)).status(), 304, "{known}");
        }
        assert_eq!(get("app.js", Some("\"other\"")).status(), 200);
        assert_eq!(get("app.css", None).status(), 404);
        assert_eq!(get("../Cargo.toml", None).status(), 404);
    }

    /// The page's own sources keep the promises that the policy enforces.
    #[test]
    fn the_page_makes_no_markup_of_text_and_asks_nobody_else() {
        for asset in &ASSETS {
            let text = std::str::from_utf8(asset.content).unwrap();
            for word in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=\"", "onclick=\""]
            {
                assert!(!text.contains(word), "{} holds `{word}`", asset.name);
            }
            for (at, _) in text.match_indices("://") {
                let around = &text[at.saturating_sub(6)..(at + 24).min(text.len())];
                // The name of a format is no address that anyone asks.
                assert!(
                    around.contains("http://www.w3.org/2000") || !around.starts_with(['"', '\'']),
                    "{}: {around}",
                    asset.name
                );
            }
        }
    }
}
