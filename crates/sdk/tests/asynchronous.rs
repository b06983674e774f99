//! The asynchronous client, against a service of a few lines.

use std::future::Future;
use std::pin::Pin;

use futures_core::Stream as _;
use hublabio_sdk::ai::asynchronous::{AiClient, ChatSession, Stream};
use hublabio_sdk::ai::{Error, GenerateOptions, Message, Piece};
use serde_json::json;

#[path = "support/service.rs"]
mod service;

use service::{PATIENCE, Reply, Service, Then, echo, events_of};

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// As `futures::StreamExt` reads a stream.
async fn next(stream: &mut Stream) -> Option<Result<Piece, Error>> {
    std::future::poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

#[test]
fn a_conversation() {
    let service = Service::start(echo);
    run(async {
        let mut client = AiClient::at(&service.address).unwrap();
        client.load_model("m").await.unwrap();
        assert_eq!(client.generate("Hi").await.unwrap(), "Hi");
        assert_eq!(client.embed(&["a"]).await.unwrap(), [[1.0, 0.5]]);
        assert_eq!(client.tokenize("a").await.unwrap(), [97]);
        let mut chat = ChatSession::new(client);
        chat.set_system_prompt("S");
        assert_eq!(chat.chat("One").await.unwrap(), "One");
        let mut stream = chat.chat_stream("Two words").await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), Piece::Text("Two ".into()));
        assert_eq!(stream.finish().await.unwrap(), "Two words");
        let said: Vec<_> = chat.history().iter().filter_map(|message| message.content.as_deref()).collect();
        assert_eq!(said, ["One", "One", "Two words", "Two words"]);
    });
}

#[test]
fn requests_run_beside_each_other() {
    let service = Service::start(echo);
    run(async {
        let client = AiClient::at(&service.address).unwrap();
        let tasks: Vec<_> = (0..20)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(async move { client.generate(&number.to_string()).await })
            })
            .collect();
        for (number, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.unwrap().unwrap().text, number.to_string());
        }
    });
}

#[test]
fn a_dropped_request_closes_its_connection() {
    let begun = events_of(&[json!({ "delta": { "content": "Hal" } })]);
    let begun = begun.split(": ping").next().unwrap().to_owned();
    let service = Service::start(move |request| {
        if request.body["stream"] == true {
            return Reply::Pieces(vec![begun.clone().into()], Then::Silence);
        }
        Reply::Silence
    });
    run(async {
        let client = AiClient::at(&service.address).unwrap();
        let mut stream = client.chat_stream(&[Message::user("Hi")], &GenerateOptions::default()).await.unwrap();
        assert_eq!(next(&mut stream).await.unwrap().unwrap().text(), "Hal");
        drop(stream);
        // Its end is a task of this runtime's.
        let gone = tokio::task::spawn_blocking(move || {
            let gone = service.gone.recv_timeout(PATIENCE);
            (service, gone)
        });
        let (service, gone) = gone.await.unwrap();
        gone.expect("the service sees the end of a stream");

        let asking = tokio::spawn(async move { client.generate("Hi").await });
        while service.requests.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        asking.abort();
        let gone = tokio::task::spawn_blocking(move || service.gone.recv_timeout(PATIENCE));
        gone.await.unwrap().expect("the service sees the end of a request");
    });
}

#[test]
fn a_stream_is_given_up_from_another_task() {
    let service = Service::start(|_| Reply::Pieces(vec![b": ping\n\n".to_vec()], Then::Silence));
    run(async {
        let client = AiClient::at(&service.address).unwrap();
        let mut stream = client.stream("Hi", &GenerateOptions::default()).await.unwrap();
        let canceller = stream.canceller();
        tokio::spawn(async move { canceller.cancel() });
        assert!(matches!(stream.next().await, Some(Err(Error::Cancelled))));
        assert!(stream.next().await.is_none());
    });
}

#[test]
fn a_turn_that_failed_is_not_remembered_unless_it_is_kept() {
    let begun = events_of(&[json!({ "delta": { "content": "Hal" } })]).split(": ping").next().unwrap().to_owned();
    let service = Service::start(move |_| Reply::Pieces(vec![begun.clone().into()], Then::Cut));
    run(async {
        let mut chat = ChatSession::new(AiClient::at(&service.address).unwrap());
        let mut stream = chat.chat_stream("Hi").await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), Piece::Text("Hal".into()));
        assert!(matches!(stream.next().await, Some(Err(Error::Interrupted { .. }))));
        assert!(stream.next().await.is_none() && stream.next().await.is_none());
        assert!(matches!(stream.finish().await, Err(Error::Interrupted { .. })), "what has failed is no answer");
        assert_eq!(chat.history(), []);
        let mut stream = chat.chat_stream("Hi").await.unwrap();
        while stream.next().await.is_some() {}
        assert_eq!(stream.keep(), "Hal");
        assert_eq!(chat.history(), [Message::user("Hi"), Message::assistant("Hal")]);
    });
}
