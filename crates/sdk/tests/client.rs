//! The blocking client, against a service of a few lines.

use std::process::Command;
use std::time::Duration;

use hublabio_sdk::ai::{
    AiClient, AnswerFormat, ChatSession, Error, FinishReason, GenerateOptions, Message, Piece, Tool, ToolChoice,
};
use serde_json::json;

#[path = "support/service.rs"]
mod service;

use service::{PATIENCE, Reply, Request, Service, Then, echo, events_of};

fn client(service: &Service) -> AiClient {
    AiClient::at(&service.address).unwrap()
}

fn pieces(events: &str) -> Reply {
    Reply::Pieces(vec![events.into()], Then::End)
}

#[test]
fn every_call_reaches_its_endpoint() {
    let service = Service::start(echo);
    let mut client = client(&service);
    assert_eq!(client.health().unwrap().version, "0.1.0");
    assert_eq!(client.model(), None);
    client.load_model("/models/qwen2-0.5b-q4.gguf").unwrap();
    assert_eq!(client.model(), Some("qwen2-0.5b-q4"));
    client.load_model_for("qwen2-0.5b-q4", Some(Duration::from_secs(60))).unwrap();
    assert_eq!(service.last_request().body["keep_alive"], 60);
    client.load_model_for("qwen2-0.5b-q4", Some(Duration::from_millis(500))).unwrap();
    assert_eq!(service.last_request().body["keep_alive"], 1);
    let response = client.generate("Hello, wörld!").unwrap();
    assert_eq!((&*response, response.to_string().as_str()), ("Hello, wörld!", "Hello, wörld!"));
    assert_eq!((response.finish.clone(), response.usage.total_tokens), (Some(FinishReason::Stop), 5));
    assert_eq!(response.timings.unwrap().tokens_per_s, 4.0);
    assert_eq!(response.model, "qwen2-0.5b-q4");
    assert_eq!(client.embed(&["a", "bb"]).unwrap(), [[1.0, 0.5], [2.0, 0.5]]);
    assert_eq!(client.embed::<&str>(&[]).unwrap(), Vec::<Vec<f32>>::new());
    assert_eq!(client.tokenize("ab").unwrap(), [97, 98]);
    assert_eq!(client.detokenize(&[1, 2]).unwrap(), "[1,2]");
    assert_eq!(client.models().unwrap()[0].id, "m");
    let ps = client.ps().unwrap();
    assert_eq!((ps.models[0].name.as_str(), ps.hublab.unwrap().running), ("m", 2));
    assert!(client.unload_model("m").unwrap());
}

#[test]
fn options_are_written_into_the_request() {
    let service = Service::start(echo);
    let options = GenerateOptions {
        max_tokens: Some(7),
        stop: vec!["x".into()],
        format: AnswerFormat::JsonSchema(json!({ "type": "string" })),
        tools: vec![Tool::function("f", "does", json!({ "type": "object" }))],
        tool_choice: Some(ToolChoice::named("f")),
        logprobs: Some(2),
        expert: Some("python".into()),
        ..GenerateOptions::creative()
    }
    .with_seed(5);
    let key = client(&service).with_api_key("secret").with_model("m");
    key.generate_with("Hi", &options).unwrap();
    let request = service.last_request();
    assert_eq!(request.header("authorization"), Some("Bearer secret"));
    assert_eq!(request.header("host"), service.address.strip_prefix("http://"));
    let expected = json!({
        "model": "m",
        "messages": [{ "role": "user", "content": "Hi" }],
        "max_completion_tokens": 7, "logprobs": true, "top_logprobs": 2, "stop": ["x"],
        "tools": [{ "type": "function", "function": {
            "name": "f", "description": "does", "parameters": { "type": "object" }
        } }],
        "tool_choice": { "type": "function", "function": { "name": "f" } },
        "response_format": { "type": "json_schema", "json_schema": {
            "name": "answer", "schema": { "type": "string" }, "strict": true
        } },
        "hublab": { "expert": "python" },
        "temperature": 1.0, "top_p": 0.95, "seed": 5, "top_k": 50,
    });
    assert_eq!(request.body, expected);
    client(&service).generate("Hi").unwrap();
    assert_eq!(service.last_request().body, json!({ "messages": [{ "role": "user", "content": "Hi" }] }));
}

#[test]
fn a_stream_cut_at_any_byte_gives_the_same_pieces() {
    let choices = [
        json!({ "delta": { "role": "assistant", "content": "" } }),
        json!({ "delta": { "reasoning_content": "hm" } }),
        json!({ "delta": { "content": "Größe " } }),
        json!({ "delta": { "content": "🦀" } }),
        json!({ "delta": { "tool_calls": [{ "index": 0, "id": "c", "function": { "name": "f", "arguments": "" } }] } }),
        json!({ "delta": { "tool_calls": [{ "index": 0, "function": { "arguments": "{\"a\":" } }] } }),
        json!({ "delta": { "tool_calls": [{ "index": 0, "function": { "arguments": "1}" } }] } }),
        json!({ "delta": {}, "finish_reason": "tool_calls" }),
    ];
    let text = events_of(&choices).replace('\n', "\r\n");
    for step in [1, 2, 3, 7, 64, text.len()] {
        let bytes = text.clone().into_bytes();
        let service =
            Service::start(move |_| Reply::Pieces(bytes.chunks(step).map(<[u8]>::to_vec).collect(), Then::End));
        let mut stream = client(&service).stream("Hi", &GenerateOptions::default()).unwrap();
        let found: Vec<Piece> = stream.by_ref().map(Result::unwrap).collect();
        assert_eq!(found[0], Piece::Reasoning("hm".into()));
        assert_eq!(found.iter().map(Piece::text).collect::<String>(), "Größe 🦀");
        assert_eq!(found.len(), 6);
        let response = stream.response();
        assert_eq!((&*response, response.reasoning.as_deref()), ("Größe 🦀", Some("hm")));
        assert_eq!(response.tool_calls[0].arguments, json!({ "a": 1 }));
        assert_eq!((response.usage.total_tokens, response.finish), (5, Some(FinishReason::ToolCalls)));
        assert!(stream.next().is_none(), "the end stays the end");
    }
    let service = Service::start(echo);
    let options = GenerateOptions { progress: true, ..GenerateOptions::default() };
    let response = client(&service).stream("a b c", &options).unwrap().finish().unwrap();
    assert_eq!(&*response, "a b c");
    let body = service.last_request().body;
    assert_eq!((&body["stream_options"], &body["return_progress"]), (&json!({ "include_usage": true }), &json!(true)));
}

/// A silence that a test waits for.
const SILENCE: Duration = Duration::from_millis(500);

/// Both kinds of answers fail with a text that holds `expected`.
fn check_failure(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static, expected: &str) -> Error {
    let is_silent = expected.starts_with("nothing came");
    let service = Service::start(reply);
    let client = client(&service).with_timeout(if is_silent { SILENCE } else { PATIENCE });
    let error = client.generate("Hi").unwrap_err();
    let streamed = client.stream("Hi", &GenerateOptions::default()).and_then(hublabio_sdk::ai::Stream::finish);
    for error in [&error, &streamed.unwrap_err()] {
        assert!(error.to_string().contains(expected), "{error}");
    }
    error
}

#[test]
fn errors_say_what_and_what_to_do() {
    let no = |status, headers, body: &'static str| move |_: &Request| Reply::Whole(status, headers, body.to_owned());
    let error = check_failure(
        no(400, "", r#"{"error":{"message":"no field `x`","type":"invalid_request_error","param":"x","code":"c"}}"#),
        "the service refuses (status 400): no field `x`",
    );
    let Error::Refused { status: Some(400), param: Some(param), code: Some(code), .. } = error else { panic!() };
    assert_eq!((param.as_str(), code.as_str()), ("x", "c"));
    let error = check_failure(no(429, "retry-after: 2\r\n", r#"{"error":"full"}"#), "busy: full; try again in 2 s");
    assert!(matches!(error, Error::Busy { retry_after: Some(after), .. } if after.as_secs() == 2));
    check_failure(no(503, "", ""), "try again later");
    check_failure(no(200, "", "no JSON"), "the answer of /v1/chat/completions is broken");
    check_failure(no(200, "", r#"{"id":"1","object":"x","model":"m","choices":[]}"#), "/v1/chat/completions is broken");
    check_failure(no(301, "location: http://elsewhere\r\n", ""), "(status 301)");
    check_failure(|_| Reply::Silence, "nothing came from the service for 0.5 s before the answer");
    let error = AiClient::at("ftp://box").err().unwrap();
    assert!(error.to_string().contains("its scheme is unknown"), "{error}");
    let service = Service::start(echo);
    let error = client(&service).with_api_key("a\nb").generate("Hi").unwrap_err();
    assert!(error.to_string().contains("API key cannot be sent"), "{error}");
    let error = AiClient::at("http://127.0.0.1:1").unwrap().generate("Hi").unwrap_err().to_string();
    assert!(error.contains("tried http://127.0.0.1:1 (") && error.contains("start `hublab serve`"), "{error}");
}

#[test]
fn an_answer_that_breaks_off_is_none() {
    let begun = events_of(&[json!({ "delta": { "content": "Hal" } })]);
    let begun = begun.split(": ping").next().unwrap().to_owned();
    let check = |events: &str, then: Then, expected: &str| {
        let events = events.to_owned();
        let service = Service::start(move |_| Reply::Pieces(vec![events.clone().into()], then));
        let client = client(&service).with_timeout(if then == Then::Silence { SILENCE } else { PATIENCE });
        let mut stream = client.stream("Hi", &GenerateOptions::default()).unwrap();
        let error = stream.find_map(Result::err).expect(expected);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(stream.next().is_none(), "an error is the end");
        stream.response()
    };
    let response = check(&begun, Then::Cut, "cut in the middle of a streamed answer");
    assert_eq!((response.text.as_str(), response.finish), ("Hal", None));
    check(&begun, Then::End, "without the mark of the end");
    check(&begun, Then::Silence, "nothing came from the service for 0.5 s in the middle");
    check("data: {\"error\":{\"message\":\"out of memory\"}}\n\n", Then::End, "the service refuses: out of memory");
    check("data: [DONE]\n\n", Then::End, "it has no `finish_reason`");
    check("data: {\n\n", Then::End, "(streamed) is broken");
    check("data: \u{1}\n\n", Then::End, "(streamed) is broken");
    let call = json!({ "delta": { "tool_calls": [{ "index": 4_000_000_000_u32, "function": { "name": "f" } }] } });
    check(&events_of(&[call]), Then::End, "tool call 4000000000 comes after 0 others");
    let service = Service::start(|_| Reply::Half);
    let error = client(&service).generate("Hi").unwrap_err();
    assert!(error.to_string().contains("cut in the answer of /v1/chat/completions"), "{error}");
}

#[test]
fn a_call_that_the_limit_cut_is_no_call() {
    let choices = [
        json!({ "delta": { "tool_calls": [{ "index": 0, "id": "c", "function": { "name": "f", "arguments": "{\"a" } }] } }),
        json!({ "delta": {}, "finish_reason": "length" }),
    ];
    let service = Service::start(move |request| {
        if request.body["stream"] == true {
            return pieces(&events_of(&choices));
        }
        let call = |text| json!({ "id": "c", "function": { "name": "f", "arguments": text } });
        let message = json!({ "role": "assistant", "tool_calls": [call("{}"), call("{\"a")] });
        let choice = json!({ "message": message, "finish_reason": "length" });
        Reply::Whole(200, "", json!({ "id": "1", "object": "o", "model": "m", "choices": [choice] }).to_string())
    });
    let response = client(&service).stream("Hi", &GenerateOptions::default()).unwrap().finish().unwrap();
    assert_eq!((response.tool_calls.len(), response.finish), (0, Some(FinishReason::Length)));
    // The first of two is complete.
    assert_eq!(client(&service).generate("Hi").unwrap().tool_calls.len(), 1);
}

#[test]
fn a_stream_that_is_dropped_or_given_up_closes_its_connection() {
    let begun = events_of(&[json!({ "delta": { "content": "Hal" } })]);
    let begun = begun.split(": ping").next().unwrap().to_owned();
    let service = Service::start(move |_| Reply::Pieces(vec![begun.clone().into()], Then::Silence));
    let client = client(&service);
    let mut stream = client.stream("Hi", &GenerateOptions::default()).unwrap();
    assert_eq!(stream.next().unwrap().unwrap(), Piece::Text("Hal".into()));
    drop(stream);
    service.gone.recv_timeout(PATIENCE).expect("the service sees the end");

    let mut stream = client.stream("Hi", &GenerateOptions::default()).unwrap();
    stream.next().unwrap().unwrap();
    let canceller = stream.canceller();
    let waiting = std::thread::spawn(move || (stream.next().unwrap(), stream.next().is_none()));
    canceller.cancel();
    let (piece, is_over) = waiting.join().unwrap();
    assert!(matches!(piece, Err(Error::Cancelled)) && is_over);
    service.gone.recv_timeout(PATIENCE).expect("the service sees the end");
}

#[test]
fn calls_work_inside_of_somebodys_runtime() {
    let service = Service::start(echo);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = client(&service);
        assert_eq!(client.generate("Hi").unwrap(), "Hi");
        let stream = client.stream("a b", &GenerateOptions::default()).unwrap();
        assert_eq!(stream.map(|piece| piece.unwrap().to_string()).collect::<String>(), "a b");
        // The last of a client is dropped here, too.
    });
}

/// A service that counts a token for each byte of the messages and has room for so many.
fn narrow(context: usize) -> impl Fn(&Request) -> Reply {
    move |request| {
        let messages = request.body["messages"].as_array().unwrap();
        let tokens: usize = messages.iter().map(|m| m["content"].as_str().unwrap_or_default().len()).sum();
        if tokens < context {
            return echo(request);
        }
        let message = format!("the prompt has {tokens} tokens, the context holds {context}");
        let (param, code) = ("messages", "context_length_exceeded");
        let error = json!({ "message": message, "param": param, "code": code, "prompt_tokens": tokens, "context_tokens": context });
        Reply::Whole(400, "", json!({ "error": error }).to_string())
    }
}

#[test]
fn a_session_remembers_and_leaves_the_oldest_turns_out() {
    let service = Service::start(narrow(60));
    let mut chat = ChatSession::new(client(&service));
    chat.set_system_prompt("You are brief.");
    for text in ["First: ten", "Second: te"] {
        assert_eq!(chat.chat(text).unwrap(), text);
    }
    assert_eq!((chat.history().len(), chat.trimmed_turns()), (4, 0));
    let response = chat.chat("Third: ten").unwrap();
    assert_eq!(
        response.notes,
        ["the oldest 1 turn of the conversation was left out: the prompt has 64 tokens, the context holds 60"]
    );
    assert_eq!(chat.trimmed_turns(), 1);
    let sent = service.last_request().body["messages"].clone();
    let said: Vec<_> = sent.as_array().unwrap().iter().map(|message| message["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["You are brief.", "Second: te", "Second: te", "Third: ten"]);
    assert_eq!(chat.history()[0], Message::user("Second: te"));

    // A stream leaves out, too, and is remembered when it has ended; what is dropped is not.
    let mut stream = chat.chat_stream("Fourth: te").unwrap();
    stream.next().unwrap().unwrap();
    drop(stream);
    assert_eq!((chat.history().len(), chat.trimmed_turns()), (4, 1));
    let response = chat.chat_stream("Fourth: te").unwrap().finish().unwrap();
    assert!(response.notes[0].contains("the oldest 1 turn"), "{:?}", response.notes);
    let mut stream = chat.chat_stream("Fifth ten").unwrap();
    stream.next().unwrap().unwrap();
    assert_eq!(stream.keep(), "Fifth ");
    assert_eq!(chat.history().last().unwrap(), &Message::assistant("Fifth "));

    // What alone is too long stays an error, and changes nothing.
    let before = chat.history().to_vec();
    let error = chat.chat(&"long ".repeat(20)).unwrap_err();
    assert!(
        matches!(error, Error::ContextTooLong { prompt_tokens: Some(114), context_tokens: Some(60), .. }),
        "{error}"
    );
    assert_eq!(chat.history(), before);
    chat.reset();
    assert_eq!((chat.history().len(), chat.trimmed_turns()), (0, 0));
}

#[test]
fn tools_are_called_and_answered() {
    let service = Service::start(|request| {
        if request.body["messages"].as_array().unwrap().last().unwrap()["role"] == "tool" {
            return echo(request);
        }
        let call =
            json!({ "id": "c1", "type": "function", "function": { "name": "add", "arguments": "{\"a\":2,\"b\":2}" } });
        let message = json!({ "role": "assistant", "content": null, "tool_calls": [call] });
        let answer = json!({
            "id": "1", "object": "chat.completion", "model": "m",
            "choices": [{ "message": message, "finish_reason": "tool_calls" }],
        });
        Reply::Whole(200, "", answer.to_string())
    });
    let mut chat = ChatSession::new(client(&service));
    chat.options_mut().tools = vec![Tool::function("add", "adds", json!({ "type": "object" }))];
    let response = chat.chat("2+2?").unwrap();
    assert_eq!((&*response, response.tool_calls[0].to_string().as_str()), ("", r#"add({"a":2,"b":2})"#));
    chat.add_tool_result(&response.tool_calls[0], "4");
    assert_eq!(chat.answer().unwrap(), "4");
    let sent = service.last_request().body["messages"].clone();
    assert_eq!(
        sent[1],
        json!({ "role": "assistant", "tool_calls": [
        { "id": "c1", "type": "function", "function": { "name": "add", "arguments": "{\"a\":2,\"b\":2}" } }
    ] })
    );
    assert_eq!(sent[2], json!({ "role": "tool", "content": "4", "name": "add", "tool_call_id": "c1" }));
}

#[test]
fn answers_with_a_schema_are_read() {
    let service = Service::start(echo);
    let client = client(&service);
    let numbers: Vec<u8> = client.generate("[1, 2]").unwrap().json().unwrap();
    assert_eq!(numbers, [1, 2]);
    let error = client.generate("[1, ").unwrap().json::<Vec<u8>>().unwrap_err().to_string();
    assert!(error.starts_with("the answer cannot be read as what the program expects"), "{error}");
}

/// Runs one test of this file in a process of its own, with another environment.
fn child(test: &str, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD, "1");
    for name in ["HUBLAB_HOST", "HUBLAB_API_KEY", "XDG_RUNTIME_DIR"] {
        command.env_remove(name);
    }
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text
}

const CHILD: &str = "HUBLAB_TEST_CHILD";

#[test]
fn connecting_follows_the_environment() {
    if std::env::var_os(CHILD).is_some() {
        match AiClient::connect() {
            Ok(client) => {
                println!("connected to {}: {}", client.address().unwrap(), client.generate("Hi").unwrap());
            }
            Err(error) => println!("{error}"),
        }
        return;
    }
    let this = "connecting_follows_the_environment";
    let service = Service::start(echo);
    let text = child(this, &[("HUBLAB_HOST", &service.address), ("HUBLAB_API_KEY", "secret")]);
    assert!(text.contains(&format!("connected to {}: Hi", service.address)), "{text}");
    assert_eq!(service.last_request().header("authorization"), Some("Bearer secret"));
    assert_eq!(service.requests.lock().unwrap()[0].line, "GET /health");

    let text = child(this, &[("HUBLAB_HOST", "http://127.0.0.1:1")]);
    assert!(text.contains("no HubLab service answers: tried http://127.0.0.1:1 ("), "{text}");
    assert!(text.contains("start `hublab serve`, or set HUBLAB_HOST"), "{text}");
    let other = Service::start(|_| Reply::Whole(404, "", "nothing here".into()));
    let text = child(this, &[("HUBLAB_HOST", &other.address)]);
    assert!(text.contains("(status 404): nothing here"), "{text}");
    #[cfg(unix)]
    {
        let folder = std::env::temp_dir().join(format!("hublab-sdk-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let service = Service::start_unix(&folder.join("hublab.sock"), echo);
        let text = child(this, &[("XDG_RUNTIME_DIR", folder.to_str().unwrap())]);
        assert!(text.contains(&format!("connected to {}: Hi", service.address)), "{text}");
        assert_eq!(service.last_request().header("host"), Some("localhost"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_turn_that_failed_is_not_remembered_unless_it_is_kept() {
    let begun = events_of(&[json!({ "delta": { "content": "Hal" } })]).split(": ping").next().unwrap().to_owned();
    let service = Service::start(move |_| Reply::Pieces(vec![begun.clone().into()], Then::Cut));
    let mut chat = ChatSession::new(client(&service));
    let mut stream = chat.chat_stream("Hi").unwrap();
    assert_eq!(stream.next().unwrap().unwrap(), Piece::Text("Hal".into()));
    assert!(matches!(stream.next(), Some(Err(Error::Interrupted { .. }))));
    assert!(stream.next().is_none() && stream.next().is_none());
    assert!(matches!(stream.finish(), Err(Error::Interrupted { .. })), "what has failed is no answer");
    assert_eq!(chat.history(), []);
    let mut stream = chat.chat_stream("Hi").unwrap();
    assert_eq!(stream.by_ref().filter(Result::is_err).count(), 1);
    assert_eq!(stream.keep(), "Hal");
    assert_eq!(chat.history(), [Message::user("Hi"), Message::assistant("Hal")]);
}

#[test]
fn a_stay_of_less_than_a_second_is_one() {
    let service = Service::start(echo);
    for (stay, seconds) in [(Duration::from_millis(500), 1), (Duration::from_millis(2001), 3), (Duration::ZERO, 0)] {
        client(&service).load_model_for("m", Some(stay)).unwrap();
        assert_eq!(service.last_request().body["keep_alive"], seconds);
    }
}

#[test]
fn a_model_is_described_by_any_name() {
    let model = json!({ "id": "llama3.2:latest", "object": "model", "created": 0, "owned_by": "hublab" });
    let service = Service::start(move |_| Reply::Whole(200, "", model.to_string()));
    assert_eq!(client(&service).describe_model("llama 3?").unwrap().id, "llama3.2:latest");
    assert_eq!(service.last_request().line, "GET /v1/models/llama%203%3F");
}
