//! Downloads: a server that does one thing wrong, and what comes of it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hublabio_gguf::{GgmlType, Writer};
use hublabio_runtime::Error;
use hublabio_runtime::machine::{ModelNeeds, RESERVED_BYTES};
use hublabio_runtime::moe::ModelSource;
use hublabio_runtime::node::ModelCatalog as _;
use hublabio_runtime::store::pull::{Description, PullConfig, PullEvent, PullLimits, PullOptions, PullReport};
use hublabio_runtime::store::{ModelKind, StoreError};

use crate::folder::{Folder, manifest, model_bytes, part_bytes, sha256};
use crate::server::{Reply, Server};

/// Kilobytes of the model that is fetched.
const KILOBYTES: usize = 300;
const PATH: &str = "/m.gguf";

/// Options that wait for nothing, of a machine that has room for everything.
fn options(server: &Server) -> PullOptions {
    PullOptions {
        config: PullConfig {
            hf_endpoint: server.address.clone(),
            ollama_registry: server.address.clone(),
            environment_proxy: false,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_millis(300),
            attempts: 3,
            backoff: Duration::from_millis(1),
            ..PullConfig::default()
        },
        limits: PullLimits { disk_free: Some(1 << 40), memory_total: Some(1 << 40) },
        ..PullOptions::default()
    }
}

fn pull(folder: &Folder, reference: &str, options: &PullOptions) -> Result<PullReport, Error> {
    folder.store().pull(reference, options, &mut |_| ControlFlow::Continue(()))
}

fn file() -> Reply {
    Reply::file(&model_bytes(KILOBYTES, 0))
}

fn cut(at: usize) -> Reply {
    Reply { cut_after: Some(at), ..file() }
}

/// What should come of a download.
enum Expected {
    /// The model of seed 0, asked for from these places on.
    Model(&'static [u64]),
    /// Another file of the same form.
    Other(u8, &'static [u64]),
    /// An error with these words; and whether a part is kept.
    Refused(&'static [&'static str], bool),
}
use Expected::{Model, Other, Refused};

#[track_caller]
fn check(what: &str, replies: Vec<Reply>, hash: Option<&[u8]>, expected: &Expected) {
    let folder = Folder::new("pull");
    let server = Server::start(&[(PATH, replies)]);
    let options = PullOptions { sha256: hash.map(sha256), ..options(&server) };
    let result = pull(&folder, &format!("{}{PATH}", server.address), &options);
    let files = folder.files();
    match expected {
        Model(..) | Other(..) => {
            let (seed, ranges) = match expected {
                Other(seed, ranges) => (*seed, ranges),
                Model(ranges) => (0, ranges),
                Refused(..) => unreachable!(),
            };
            let report = result.unwrap_or_else(|error| panic!("{what}: {error}"));
            let bytes = model_bytes(KILOBYTES, seed);
            assert!(std::fs::read(&report.files[0]).unwrap() == bytes, "{what}: other bytes");
            assert_eq!((report.name.as_str(), report.bytes), ("m", bytes.len() as u64), "{what}");
            assert_eq!(report.sha256, [sha256(&bytes)], "{what}");
            assert_eq!(files, ["m.gguf"], "{what}");
            assert_eq!(server.ranges(), *ranges, "{what}");
            assert_eq!(folder.store().find("m").unwrap().sha256.as_deref(), Some(sha256(&bytes).as_str()), "{what}");
        }
        Refused(words, part_kept) => {
            let error = result.expect_err(what).to_string();
            for word in *words {
                assert!(error.contains(word), "{what}: {word:?} is not in: {error}");
            }
            assert!(folder.store().find("m").is_err(), "{what}");
            let kept: &[&str] = if *part_kept { &["m.gguf.part", "m.gguf.part.json"] } else { &[] };
            let without_empty: Vec<&String> = files
                .iter()
                .filter(|file| file.ends_with(".json") || folder.models().join(file).metadata().unwrap().len() > 0)
                .collect();
            assert_eq!(without_empty, kept, "{what}");
        }
    }
}

#[test]
fn the_fault_matrix() {
    let whole = model_bytes(KILOBYTES, 0);
    let total = whole.len() as u64;
    let other = || Reply::file(&model_bytes(KILOBYTES, 1)).header("etag", "\"two\"");
    let stall = Reply { stall: Some((100_000, Duration::from_secs(20))), ..file() };
    let cases: Vec<(&str, Vec<Reply>, Expected)> = vec![
        ("nothing wrong", vec![file()], Model(&[0])),
        ("a cut goes on", vec![cut(100_000), file()], Model(&[0, 100_000])),
        ("two cuts go on", vec![cut(100_000), cut(50_000), file()], Model(&[0, 100_000, 150_000])),
        ("a cut before the first byte", vec![cut(0), file()], Model(&[0, 0])),
        ("a cut in the magic", vec![cut(2), file()], Model(&[0, 2])),
        ("a stall goes on", vec![stall.clone(), file()], Model(&[0, 100_000])),
        (
            "a stall each time",
            vec![Reply { stall: Some((0, Duration::from_secs(20))), ..file() }],
            Refused(&["nothing comes any more", "3 times"], false),
        ),
        ("no ranges", vec![cut(100_000), Reply { ranges: false, ..file() }], Model(&[0, 100_000])),
        ("the file changes in between", vec![cut(100_000), other()], Other(1, &[0, 100_000])),
        // Nothing tells the versions apart: the first is not continued by the second, whatever they are.
        (
            "no name for the version",
            vec![cut(100_000).without_header("etag"), file().without_header("etag")],
            Model(&[0, 0]),
        ),
        (
            "a weak name that changes",
            vec![cut(100_000).header("etag", "W/\"a\""), other().header("etag", "W/\"b\"")],
            Other(1, &[0, 100_000, 0]),
        ),
        (
            "a range from elsewhere",
            vec![cut(100_000), Reply { claimed_first: Some(5), ..file() }, file()],
            Model(&[0, 100_000, 0]),
        ),
        ("500, then well", vec![Reply::status(500), file()], Model(&[0, 0])),
        ("503 with a time", vec![Reply::status(503).header("retry-after", "0"), file()], Model(&[0, 0])),
        ("429, then well", vec![Reply::status(429).header("retry-after", "0"), file()], Model(&[0])),
        ("500 each time", vec![Reply::status(500)], Refused(&["answers 500", "3 times"], false)),
        (
            "429 for an hour",
            vec![Reply::status(429).header("retry-after", "3600")],
            Refused(&["429", "60 minutes"], false),
        ),
        // No clock counts so far.
        (
            "503 for ever",
            vec![Reply::status(503).header("retry-after", "18446744073709551615")],
            Refused(&["503", "minutes"], false),
        ),
        ("401", vec![Reply::status(401)], Refused(&["401", "HF_TOKEN"], false)),
        ("403", vec![Reply::status(403)], Refused(&["403", "HF_TOKEN"], false)),
        ("404", vec![Reply::status(404)], Refused(&["404", "no such file"], false)),
        ("418", vec![Reply::status(418)], Refused(&["418", "no file"], false)),
        ("HEAD is not known", vec![Reply { head_status: Some(405), ..file() }], Model(&[0, 0])),
        ("HEAD fails", vec![Reply { head_status: Some(501), ..file() }], Model(&[0, 0])),
        ("no length", vec![Reply { no_length: true, ..file() }], Model(&[0])),
        (
            "no length, and cut",
            vec![Reply { no_length: true, ..cut(100_000) }],
            Refused(&["no model", "truncated"], false),
        ),
        (
            "more is claimed than comes",
            vec![Reply { claimed_length: Some(total + 5), ..file() }],
            Refused(&["ended before the file", "3 times"], true),
        ),
        (
            "less is claimed than there is",
            vec![Reply { claimed_length: Some(total - 5), ..file() }],
            Refused(&["no model", "truncated"], false),
        ),
        (
            "two lengths",
            vec![Reply { head_status: None, ..file() }.header("x-linked-size", "5")],
            Refused(&["has 5 bytes", "now"], false),
        ),
        (
            "a page",
            vec![Reply::file(b"<!doctype html><title>Log in</title>")],
            Refused(&["no model", "<!doctype"], false),
        ),
        ("a model that is none", vec![Reply::file(b"GGUF....")], Refused(&["no model"], false)),
        ("nothing", vec![Reply::file(b"")], Refused(&["no model"], false)),
        ("packed", vec![file().header("content-encoding", "gzip")], Refused(&["packed", "gzip"], false)),
        ("a redirect to nowhere", vec![Reply::status(302)], Refused(&["leads nowhere"], false)),
        ("a redirect to itself", vec![Reply::redirect(302, PATH)], Refused(&["redirects more than"], false)),
        ("a redirect to ftp", vec![Reply::redirect(302, "ftp://x/m.gguf")], Refused(&["no address"], false)),
        ("206 to no range", vec![Reply { status: 206, ..file() }], Refused(&["206"], false)),
    ];
    for (what, replies, expected) in cases {
        check(what, replies, None, &expected);
    }
}

#[test]
fn a_wrong_hash_never_becomes_a_model() {
    let right = model_bytes(KILOBYTES, 0);
    let wrong = model_bytes(KILOBYTES, 9);
    check("the right one", vec![file()], Some(&right), &Model(&[0]));
    check("another one", vec![file()], Some(&wrong), &Refused(&["SHA-256", "deleted"], false));
    // Without a name for the version the hash decides whether the parts fit together.
    let nameless = |reply: Reply| reply.without_header("etag");
    check("parts of one file", vec![nameless(cut(100_000)), nameless(file())], Some(&right), &Model(&[0, 100_000]));
    let other = nameless(Reply::file(&wrong));
    check("parts of two files", vec![nameless(cut(100_000)), other], Some(&right), &Refused(&["SHA-256"], false));
    // What Hugging Face says of the hash counts as well.
    let said = file().header("x-linked-etag", &format!("\"{}\"", sha256(&wrong)));
    check("not what was announced", vec![said.clone()], None, &Refused(&["SHA-256", "deleted"], false));
    check("announced and asked for differ", vec![said], Some(&right), &Refused(&["not", "nothing was fetched"], false));
    let folder = Folder::new("hash-in-reference");
    let server = Server::start(&[(PATH, vec![file()])]);
    let reference = format!("{}{PATH}#sha256={}", server.address, sha256(&wrong));
    let error = pull(&folder, &reference, &options(&server)).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::WrongHash { .. })), "{error}");
}

#[test]
fn hugging_face_is_followed_to_where_its_files_lie() {
    let folder = Folder::new("hf");
    let bytes = model_bytes(KILOBYTES, 0);
    let elsewhere =
        Server::start(&[("/blob?signature=x", vec![Reply::file(&bytes).header("etag", "\"of the blob\"")])]);
    let first = Reply::redirect(302, &format!("{}/blob?signature=x", elsewhere.address))
        .header("x-linked-etag", &format!("\"{}\"", sha256(&bytes)))
        .header("x-linked-size", &bytes.len().to_string());
    let server = Server::start(&[("/o/r/resolve/main/d/m.gguf", vec![first])]);
    let mut options = options(&server);
    options.config.hf_token = Some("secret".into());
    let report = pull(&folder, "hf://o/r/d/m.gguf", &options).unwrap();
    assert_eq!((report.name.as_str(), report.from.as_str()), ("m", "hf://o/r/d/m.gguf@main"));
    // The first answer to HEAD says everything; the login is for the first server alone.
    assert_eq!(elsewhere.ranges(), [0]);
    assert!(elsewhere.requests().iter().all(|request| request.path == "/blob?signature=x"));
    assert!(elsewhere.requests().iter().all(|request| !request.headers.contains_key("authorization")));
    assert!(server.requests().iter().all(|request| request.headers["authorization"] == "Bearer secret"));
    // Again: nothing is fetched. A signed address is written down nowhere.
    let again = pull(&folder, "hf://o/r/d/m.gguf", &options).unwrap();
    assert!(again.already_there && again.bytes_fetched == 0);
    assert_eq!(elsewhere.requests().len(), 1);
    let records = std::fs::read_to_string(folder.models().join(".hublab-store.json")).unwrap();
    assert!(!records.contains("signature") && records.contains("hf://o/r/d/m.gguf@main"), "{records}");
    // The same name for something else is refused, before a byte of it comes.
    let other = Server::start(&[(PATH, vec![file()])]);
    let error = pull(&folder, &format!("{}{PATH}", other.address), &options).unwrap_err();
    assert!(error.to_string().contains("already") && other.requests().is_empty(), "{error}");
    let named = PullOptions { name: Some("org/other".into()), ..options };
    pull(&folder, &format!("{}{PATH}", other.address), &named).unwrap();
    assert_eq!(folder.files(), ["m.gguf", "org/other.gguf"]);
}

#[test]
fn a_new_version_takes_the_place_of_the_old_one() {
    let folder = Folder::new("update");
    let old = Server::start(&[("/o/r/resolve/main/m.gguf", vec![file()])]);
    pull(&folder, "hf://o/r/m.gguf", &options(&old)).unwrap();
    assert!(pull(&folder, "hf://o/r/m.gguf", &options(&old)).unwrap().already_there);
    let bytes = model_bytes(KILOBYTES, 1);
    let new = Server::start(&[("/o/r/resolve/main/m.gguf", vec![Reply::file(&bytes).header("etag", "\"two\"")])]);
    let report = pull(&folder, "hf://o/r/m.gguf", &options(&new)).unwrap();
    assert!(!report.already_there && std::fs::read(&report.files[0]).unwrap() == bytes);
    // One that was changed by hand is not replaced.
    folder.write("models/m.gguf", &model_bytes(1, 0));
    let error = pull(&folder, "hf://o/r/m.gguf", &options(&old)).unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
}

#[test]
fn split_models_come_whole() {
    let folder = Folder::new("split");
    let part = |no: u64| part_bytes(KILOBYTES, no as u8, Some((no, 2)));
    let routes: Vec<(String, Vec<Reply>)> = (0..2)
        .map(|no| {
            let path = format!("/o/r/resolve/main/big-0000{}-of-00002.gguf", no + 1);
            let reply = Reply::file(&part(no)).header("etag", &format!("\"{no}\""));
            (path, vec![Reply { cut_after: Some(10_000), ..reply.clone() }, reply])
        })
        .collect();
    let routes: Vec<(&str, Vec<Reply>)> =
        routes.iter().map(|(path, replies)| (path.as_str(), replies.clone())).collect();
    let server = Server::start(&routes);
    let report = pull(&folder, "hf://o/r/big-00002-of-00002.gguf", &options(&server)).unwrap();
    assert_eq!((report.name.as_str(), report.files.len()), ("big", 2));
    assert_eq!(folder.files(), ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"]);
    assert_eq!(report.bytes, 2 * part(0).len() as u64);
    folder.store().find("big").unwrap();
    assert!(pull(&folder, "hf://o/r/big-00001-of-00002.gguf", &options(&server)).unwrap().already_there);
    // Parts that do not belong together are no model.
    let one = part_bytes(KILOBYTES, 0, Some((0, 2)));
    let wrong =
        [("/w-00001-of-00002.gguf", vec![Reply::file(&one)]), ("/w-00002-of-00002.gguf", vec![Reply::file(&one)])];
    let server = Server::start(&wrong);
    let error = pull(&folder, &format!("{}/w-00001-of-00002.gguf", server.address), &options(&server)).unwrap_err();
    assert!(error.to_string().contains("no model"), "{error}");
    assert_eq!(folder.files().len(), 2);
}

#[test]
fn ollamas_registry_names_the_blob() {
    let folder = Folder::new("ollama");
    let bytes = model_bytes(KILOBYTES, 0);
    let hash = sha256(&bytes);
    let blob = format!("/v2/library/llama/blobs/sha256:{hash}");
    let cases = |blob_reply: Reply| {
        Server::start(&[
            ("/v2/library/llama/manifests/1b", vec![Reply::file(manifest(&hash, bytes.len()).as_bytes())]),
            (blob.as_str(), vec![Reply { cut_after: Some(1000), ..blob_reply.clone() }, blob_reply]),
            ("/v2/library/bad/manifests/latest", vec![Reply::file(b"{}")]),
            ("/v2/library/long/manifests/latest", vec![Reply::file(&vec![b' '; 2 << 20])]),
        ])
    };
    let server = cases(Reply::file(&bytes).without_header("etag"));
    let report = pull(&folder, "llama:1b", &options(&server)).unwrap();
    assert_eq!((report.name.as_str(), report.sha256[0].as_str()), ("llama:1b", hash.as_str()));
    assert_eq!(folder.files(), ["llama:1b.gguf"]);
    // The digest vouches for the whole: it goes on without a name for the version.
    assert_eq!(server.ranges(), [0, 0, 1000]);
    assert!(pull(&folder, "ollama://llama:1b", &options(&server)).unwrap().already_there);
    for (reference, word) in [("bad", "does not name one GGUF"), ("long", "longer than"), ("none", "404")] {
        let error = pull(&folder, reference, &options(&server)).unwrap_err().to_string();
        assert!(error.contains(word), "{reference}: {error}");
    }
    // What Ollama itself has already is not fetched again.
    let folder = Folder::new("ollama-there");
    let there = folder.ollama("registry.ollama.ai/library/llama/1b", &bytes);
    let report = pull(&folder, "llama:1b", &options(&server)).unwrap();
    assert!(report.already_there && report.files == [there] && folder.files().is_empty());
    // A blob of other bytes.
    let folder = Folder::new("ollama-wrong");
    let server = cases(Reply::file(&model_bytes(KILOBYTES, 1)));
    let error = pull(&folder, "llama:1b", &options(&server)).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::WrongHash { .. })) && folder.files().is_empty(), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_before_it_comes() {
    let folder = Folder::new("fit");
    let server = Server::start(&[(PATH, vec![file()])]);
    let reference = format!("{}{PATH}", server.address);
    let mut small = options(&server);
    small.limits = PullLimits { disk_free: Some(100_000), memory_total: Some(1 << 40) };
    let error = pull(&folder, &reference, &small).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::DiskTooSmall { free: 100_000, .. })), "{error}");
    small.limits = PullLimits { disk_free: Some(1 << 40), memory_total: Some(1000) };
    let error = pull(&folder, &reference, &small).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::MemoryTooSmall { total: 1000, .. })), "{error}");
    assert!(error.to_string().contains("--force"));
    assert_eq!(server.ranges(), [0; 0], "only HEAD was asked");
    pull(&folder, &reference, &PullOptions { force: true, ..small }).unwrap();
}

/// What is said of a model before it comes, and what comes of the download.
fn described(
    reply: Reply,
    memory_total: u64,
) -> (Option<Description>, Result<PullReport, Error>, Vec<u64>, Vec<String>) {
    let folder = Folder::new("described");
    let server = Server::start(&[(PATH, vec![reply])]);
    let mut options = options(&server);
    options.limits.memory_total = Some(memory_total);
    let mut seen = None;
    let result = folder.store().pull(&format!("{}{PATH}", server.address), &options, &mut |event| {
        if let PullEvent::Described(description) = event {
            seen = Some(description);
        }
        ControlFlow::Continue(())
    });
    (seen, result, server.ranges(), folder.files())
}

#[test]
fn what_a_model_is_and_needs_is_known_before_it_comes() {
    let bytes = hublabio_runtime::ai::DEFAULT_MODEL;
    let (description, report, ranges, files) = described(Reply::file(bytes), 1 << 40);
    let description = description.unwrap();
    let needs = ModelNeeds::of(&ModelSource::Builtin("default"), 4096).unwrap();
    assert_eq!((description.needs, description.problem.as_ref()), (Some(needs), None));
    assert!(description.architecture.is_some() && description.context_length.is_some(), "{description:?}");
    assert!(description.parameters > 1_000_000 && description.quantization.is_some(), "{description:?}");
    // One connection brought both.
    assert_eq!((report.unwrap().description, ranges), (Some(description), vec![0]));
    assert_eq!(files, ["m.gguf"]);
    // Without ranges and without a name for the version it is the same.
    let plain = Reply { ranges: false, ..Reply::file(bytes) }.without_header("etag");
    let (seen, report, ranges, _) = described(plain, 1 << 40);
    assert!(seen.is_some() && report.is_ok() && ranges == [0]);
    // Weights have a place, keys and values have none: nothing is left of it.
    let (seen, result, ranges, files) = described(Reply::file(bytes), needs.weight_bytes + RESERVED_BYTES);
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::MemoryTooSmall { .. })), "{error}");
    assert!(seen.is_some() && ranges == [0] && files.is_empty(), "{ranges:?} {files:?}");
}

#[test]
fn the_description_comes_before_the_weights() {
    let folder = Folder::new("before");
    let bytes = hublabio_runtime::ai::DEFAULT_MODEL;
    let server = Server::start(&[(PATH, vec![Reply::file(bytes)])]);
    let result =
        folder.store().pull(&format!("{}{PATH}", server.address), &options(&server), &mut |event| match event {
            PullEvent::Described(_) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    let part = folder.models().join("m.gguf.part").metadata().unwrap().len();
    assert!(part < bytes.len() as u64 / 2, "{part} bytes came to know what it is");
}

#[test]
fn what_cannot_be_run_is_fetched_and_said() {
    let (seen, report, ..) = described(file(), 1 << 40);
    let description = seen.unwrap();
    assert_eq!(description.architecture.as_deref(), Some("llama"));
    assert!(description.needs.is_none() && description.problem.unwrap().contains("llama."));
    report.unwrap();
    // One that describes nothing is refused when it is whole, as ever.
    let (seen, report, ..) = described(Reply::file(b"GGUF........................"), 1 << 40);
    assert!(seen.is_none() && report.is_err());
}

#[test]
fn a_long_description_is_read_to_its_end() {
    let mut writer = Writer::new();
    writer.metadata_mut().insert("general.architecture", "llama");
    writer.metadata_mut().insert("padding", "x".repeat(5 << 20));
    writer.add_tensor("t", &[1 << 20], GgmlType::F32).unwrap();
    let bytes = writer.to_bytes([vec![0; 4 << 20].as_slice()]).unwrap();
    let (seen, report, ranges, _) = described(Reply::file(&bytes), 1 << 40);
    assert_eq!((seen.unwrap().parameters, report.unwrap().bytes), (1 << 20, bytes.len() as u64));
    assert_eq!(ranges, [0]);
}

#[test]
fn a_download_goes_on_where_it_was_stopped() {
    let folder = Folder::new("stop");
    let server = Server::start(&[(PATH, vec![Reply { pause: Duration::from_millis(1), ..file() }, file()])]);
    let reference = format!("{}{PATH}", server.address);
    let stopped = folder.store().pull(&reference, &options(&server), &mut |event| match event {
        PullEvent::Progress { bytes_done, .. } if bytes_done > 100_000 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    let models = folder.store().list().models;
    let part = models.iter().find(|model| model.name == "m").unwrap();
    assert!(part.kind == ModelKind::Unfinished && part.bytes > 100_000);
    assert!(part.problem.as_ref().unwrap().contains(&format!("hublab pull {reference}")), "{part:?}");
    let mut there = 0;
    let report = folder.store().pull(&reference, &options(&server), &mut |event| {
        if let PullEvent::Planned { bytes_there, .. } = event {
            there = bytes_there;
        }
        ControlFlow::Continue(())
    });
    let report = report.unwrap();
    assert_eq!((there, report.bytes_fetched), (part.bytes, report.bytes - part.bytes));
    assert_eq!(server.ranges(), [0, part.bytes]);
    assert!(std::fs::read(&report.files[0]).unwrap() == model_bytes(KILOBYTES, 0));
}

#[test]
fn a_part_of_something_else_begins_anew() {
    let bytes = model_bytes(KILOBYTES, 0);
    let json = |from: &str, etag: &str| {
        format!(r#"{{"from":"{from}","bytes":{},"sha256":null,"etag":{etag:?},"last_modified":null}}"#, bytes.len())
    };
    let server = Server::start(&[(PATH, vec![file()])]);
    let reference = format!("{}{PATH}", server.address);
    for (what, sidecar, from) in [
        ("the same", json(&reference, "\"one\""), 1000),
        ("another version", json(&reference, "\"two\""), 0),
        ("another place", json("http://elsewhere/m.gguf", "\"one\""), 0),
        ("no sense", "{".to_owned(), 0),
    ] {
        let folder = Folder::new("part");
        folder.write("models/m.gguf.part", &bytes[..1000]);
        folder.write("models/m.gguf.part.json", sidecar.as_bytes());
        let report = pull(&folder, &reference, &options(&server)).unwrap();
        assert!(std::fs::read(&report.files[0]).unwrap() == bytes, "{what}");
        assert_eq!(server.ranges().last(), Some(&from), "{what}");
    }
    // One that is whole already only needs its name.
    let folder = Folder::new("whole-part");
    folder.write("models/m.gguf.part", &bytes);
    folder.write("models/m.gguf.part.json", json(&reference, "\"one\"").as_bytes());
    let gets = server.ranges().len();
    assert_eq!(pull(&folder, &reference, &options(&server)).unwrap().bytes_fetched, 0);
    assert_eq!(server.ranges().len(), gets);
}

#[test]
fn one_of_two_at_once_is_refused() {
    let folder = Folder::new("lock");
    let server = Server::start(&[(PATH, vec![file()])]);
    let reference = format!("{}{PATH}", server.address);
    let mut refused = None;
    let first = folder.store().pull(&reference, &options(&server), &mut |event| {
        if matches!(event, PullEvent::Planned { .. }) {
            refused = Some(pull(&folder, &reference, &options(&server)));
        }
        ControlFlow::Continue(())
    });
    first.unwrap();
    let refused = refused.unwrap().unwrap_err();
    assert!(matches!(refused, Error::Store(StoreError::Locked { .. })), "{refused}");
    // And it is free again.
    assert!(pull(&folder, &reference, &options(&server)).unwrap().already_there);
    assert_eq!(folder.files(), ["m.gguf"]);
}

#[test]
fn what_comes_to_be_there_meanwhile_stays() {
    let folder = Folder::new("meanwhile");
    let server = Server::start(&[(PATH, vec![file()])]);
    let reference = format!("{}{PATH}", server.address);
    let own = model_bytes(1, 7);
    let result = folder.store().pull(&reference, &options(&server), &mut |event| {
        if matches!(event, PullEvent::Described(_)) {
            folder.write("models/m.gguf", &own);
        }
        ControlFlow::Continue(())
    });
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::Exists { .. })), "{error}");
    assert!(std::fs::read(folder.models().join("m.gguf")).unwrap() == own);
    // What came is not lost: under another name nothing is fetched again but what is asked for.
    std::fs::remove_file(folder.models().join("m.gguf")).unwrap();
    assert_eq!(pull(&folder, &reference, &options(&server)).unwrap().bytes_fetched, 0);
}

#[test]
fn a_model_that_is_being_pulled_is_not_removed() {
    let folder = Folder::new("remove");
    let server = Server::start(&[(PATH, vec![file()])]);
    let mut removed = None;
    let report = folder.store().pull(&format!("{}{PATH}", server.address), &options(&server), &mut |event| {
        if matches!(event, PullEvent::Described(_)) {
            removed = Some(folder.store().remove("m"));
        }
        ControlFlow::Continue(())
    });
    report.unwrap();
    let error = removed.unwrap().unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::Locked { .. })), "{error}");
    folder.store().remove("m").unwrap();
    assert!(folder.files().is_empty());
}

#[cfg(unix)]
#[test]
fn a_link_in_the_place_of_a_part_is_not_written_through() {
    let folder = Folder::new("part-link");
    let outside = folder.write("outside", b"keep me");
    std::os::unix::fs::symlink(&outside, folder.models().join("m.gguf.part")).unwrap();
    let server = Server::start(&[(PATH, vec![file()])]);
    let error = pull(&folder, &format!("{}{PATH}", server.address), &options(&server)).unwrap_err().to_string();
    assert!(error.contains("m.gguf.part") && error.contains("in the way"), "{error}");
    assert_eq!(std::fs::read(&outside).unwrap(), b"keep me");
}

#[test]
fn a_server_that_says_nothing_can_be_left() {
    let folder = Folder::new("silent");
    let stall = Reply { stall: Some((1000, Duration::from_secs(60))), ..file() };
    let server = Server::start(&[(PATH, vec![stall])]);
    let stop = Arc::new(AtomicBool::new(false));
    let mut options = PullOptions { stop: Some(Arc::clone(&stop)), ..options(&server) };
    options.config.read_timeout = Duration::from_secs(60);
    let (begun, waits) = std::sync::mpsc::channel();
    let stopper = std::thread::spawn(move || {
        waits.recv().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::Relaxed);
    });
    let start = Instant::now();
    let result = folder.store().pull(&format!("{}{PATH}", server.address), &options, &mut |event| {
        if matches!(event, PullEvent::Progress { .. }) {
            begun.send(()).unwrap();
        }
        ControlFlow::Continue(())
    });
    stopper.join().unwrap();
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(50), "it waited for the server");
}

#[test]
fn nobody_there_and_names_that_cannot_be() {
    let folder = Folder::new("nobody");
    let server = Server::start(&[]);
    let mut nobody = options(&server);
    nobody.config.hf_endpoint = "http://127.0.0.1:1".into();
    let error = pull(&folder, "hf://o/r/m.gguf", &nobody).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::Unreachable { attempts: 3, .. })), "{error}");
    // A name that never has an address (RFC 6761) is a slip of the pen: it is not asked for as often as a server that fails.
    nobody.config.hf_endpoint = "http://nowhere.invalid".into();
    let error = pull(&folder, "hf://o/r/m.gguf", &nobody).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::Unreachable { attempts: 2, .. })), "{error}");
    assert!(error.to_string().contains("no server nowhere.invalid"), "{error}");
    let url = format!("{}{PATH}", server.address);
    for (reference, name, words) in [
        (url.as_str(), Some("../x"), &["no name"][..]),
        (&url, Some("default"), &["built-in", "--name"]),
        ("hf://o/r/default.gguf", None, &["built-in", "--name"]),
        (&url, Some("x-00001-of-00002"), &["part of a split model", "--name"]),
        ("http://h/%2e%2e%2fx.gguf", None, &["no name"]),
        ("ftp://x/y.gguf", None, &["ftp://"]),
    ] {
        let named = PullOptions { name: name.map(Into::into), ..options(&server) };
        let error = pull(&folder, reference, &named).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{reference}: {error}");
    }
    let bad_hash = PullOptions { sha256: Some("12".into()), ..options(&server) };
    assert!(pull(&folder, &url, &bad_hash).unwrap_err().to_string().contains("64"));
    #[cfg(unix)]
    {
        std::fs::create_dir(folder.0.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(folder.0.join("elsewhere"), folder.models().join("link")).unwrap();
        let through = PullOptions { name: Some("link/m".into()), ..options(&server) };
        assert!(pull(&folder, &url, &through).unwrap_err().to_string().contains("in the way"));
    }
    assert!(server.requests().is_empty());
}

#[test]
fn https_does_not_become_http() {
    // Without a certificate no server of a test speaks https; that a redirect is checked where it is read can be seen without.
    let folder = Folder::new("downgrade");
    let server = Server::start(&[(PATH, vec![Reply::redirect(302, "https://127.0.0.1:1/m.gguf")])]);
    let error = pull(&folder, &format!("{}{PATH}", server.address), &options(&server)).unwrap_err().to_string();
    let word = if cfg!(feature = "tls") { "connection" } else { "without TLS" };
    assert!(error.contains(word), "{error}");
}
