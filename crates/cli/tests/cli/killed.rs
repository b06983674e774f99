//! The service is killed in the middle of many chats: what it told a client is there when it runs again.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::program::{command, folder, wait};
use crate::serve::{ask, end, get_request, post_request, started};

const CHATS: usize = 20;
/// Answers that are told as kept before the service is killed.
const ANSWERS: usize = 60;
/// Questions of a conversation: more do not fit into the model's context.
const TURNS: usize = 3;

/// What clients were told is kept: messages by conversation and number, and responses by id.
#[derive(Default)]
struct Told {
    messages: HashMap<(String, u64), Value>,
    responses: HashMap<String, Value>,
    answers: usize,
}

#[test]
fn what_twenty_chats_were_told_outlives_a_kill() {
    let data = folder("killed");
    std::fs::remove_dir_all(&data).unwrap();
    let told = Mutex::new(Told::default());
    for round in 1..=3 {
        let (mut child, address) = serving(&data);
        std::thread::scope(|scope| {
            for _ in 0..CHATS {
                // Each goes on until the service is gone.
                scope.spawn(|| while chat(&address, &told).is_some() {});
            }
            scope.spawn(|| while respond(&address, &told).is_some() {});
            // A failed assertion below must not leave the others waiting for a service that lives on.
            let killed = await_answers(&told, round * ANSWERS);
            child.kill().unwrap();
            assert!(killed, "the answers do not come");
        });
        child.wait().unwrap();

        let (child, address) = serving(&data);
        let told = told.lock().unwrap();
        let mut conversations = HashMap::new();
        for ((id, message_id), message) in &told.messages {
            let conversation = conversations.entry(id.clone());
            let kept = conversation.or_insert_with(|| {
                let path = format!("/api/conversations/{id}");
                body(&ask(TcpStream::connect(&address).unwrap(), &get_request(&path)))
            });
            let messages = kept["messages"].as_array().unwrap_or_else(|| panic!("{id} is gone: {kept}"));
            let found = messages.iter().find(|kept| kept["id"] == json!(message_id));
            assert_eq!(found, Some(message), "{id}");
        }
        assert!(told.responses.len() >= round, "{}", told.responses.len());
        for (id, response) in &told.responses {
            let kept = body(&ask(TcpStream::connect(&address).unwrap(), &get_request(&format!("/v1/responses/{id}"))));
            assert_eq!(kept["output"], response["output"]);
        }
        end(&child);
        assert_eq!(wait(child).code, 0);
    }
    std::fs::remove_dir_all(data).unwrap();
}

fn serving(data: &Path) -> (Child, String) {
    let mut command = command(&["serve", "--port", "0"]);
    command.env("HUBLAB_SERVER_DATA_FOLDER", data);
    started(&mut command, "http")
}

/// Whether so many answers came, within the patience of a test.
fn await_answers(told: &Mutex<Told>, answers: usize) -> bool {
    for _ in 0..12_000 {
        if told.lock().unwrap().answers >= answers {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    false
}

/// A conversation of some turns; `None` when the service is gone.
fn chat(address: &str, told: &Mutex<Told>) -> Option<()> {
    let created = sent(address, &post_request("/api/conversations", "{}"))?;
    let id = body(&created)["id"].as_str()?.to_owned();
    let mut parent = Value::Null;
    for _ in 0..TURNS {
        let question = json!({ "parent": parent, "text": "What does tar do?" }).to_string();
        let mut stream = TcpStream::connect(address).ok()?;
        stream.write_all(post_request(&format!("/api/conversations/{id}/answer"), &question).as_bytes()).ok()?;
        let mut event = String::new();
        parent = Value::Null;
        for line in BufReader::new(stream).lines() {
            let line = line.ok()?;
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut event);
            }
            let Some(data) = line.strip_prefix("data: ") else { continue };
            // A line that was cut off by the kill was not told.
            let Ok(data) = serde_json::from_str::<Value>(data) else { continue };
            let message = match event.as_str() {
                "start" => &data["user"],
                "done" => &data["message"],
                "error" => panic!("{data}"),
                _ => continue,
            };
            let mut told = told.lock().unwrap();
            told.messages.insert((id.clone(), message["id"].as_u64().unwrap()), message.clone());
            if event == "done" {
                told.answers += 1;
                parent = message["id"].clone();
            }
        }
        if parent.is_null() {
            return None;
        }
    }
    Some(())
}

/// A question whose answer the service keeps.
fn respond(address: &str, told: &Mutex<Told>) -> Option<()> {
    let answer = sent(address, &post_request("/v1/responses", "{\"input\":\"What does grep do?\"}"))?;
    let response = serde_json::from_str::<Value>(answer.split_once("\r\n\r\n")?.1).ok()?;
    let id = response["id"].as_str().unwrap_or_else(|| panic!("{response}")).to_owned();
    told.lock().unwrap().responses.insert(id, response);
    Some(())
}

/// The answer to a request; `None` where the service is gone.
fn sent(address: &str, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

fn body(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or(Value::Null)
}
