//! The store of conversations: what is kept, what is refused, and what a crash leaves.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use hublabio_server::conversations::{
    Attachment, Conversation, ConversationChange, ConversationId, ConversationStore, FILE_NAME, Message, MessageId,
    NewConversation, PageCursor, Settings, StoreError, StoreLimits, export_json, export_markdown, title_of,
};
use proptest::prelude::*;

/// A folder that is empty when a test begins.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("conversations-{name}"));
    let _ = std::fs::remove_dir_all(&folder).or_else(|_| std::fs::remove_file(&folder));
    folder
}

fn store(name: &str) -> ConversationStore {
    ConversationStore::open(&folder(name), StoreLimits::default()).unwrap()
}

fn begin(store: &ConversationStore, now: u64) -> ConversationId {
    store.create(NewConversation::default(), now).unwrap().id
}

fn say(store: &ConversationStore, id: &ConversationId, parent: Option<MessageId>, text: &str, now: u64) -> MessageId {
    store.append(id, Message::user(parent, text), now).unwrap().1.id
}

fn answer(store: &ConversationStore, id: &ConversationId, parent: MessageId, text: &str, now: u64) -> MessageId {
    store.append(id, Message::assistant(parent, text), now).unwrap().1.id
}

fn texts(conversation: &Conversation) -> Vec<&str> {
    conversation.path(conversation.head.active).unwrap().iter().map(|message| message.text.as_str()).collect()
}

#[test]
fn a_conversation_is_a_tree_whose_branches_stay() {
    let store = store("tree");
    let id = begin(&store, 1);
    let question = say(&store, &id, None, "What does tar do?", 2);
    let first = answer(&store, &id, question, "An archiving utility.", 3);
    let again = answer(&store, &id, question, "It makes archives.", 4);
    let edited = say(&store, &id, None, "What does zip do?", 5);
    let conversation = store.get(&id).unwrap();
    assert_eq!(texts(&conversation), ["What does zip do?"]);
    assert_eq!(conversation.head.title, "What does tar do?");
    assert_eq!(conversation.head.message_count, 4);

    for (active, expected) in [
        (first, vec!["What does tar do?", "An archiving utility."]),
        (again, vec!["What does tar do?", "It makes archives."]),
        (edited, vec!["What does zip do?"]),
    ] {
        store.update(&id, ConversationChange { active: Some(active), ..Default::default() }, 9).unwrap();
        let conversation = store.get(&id).unwrap();
        assert_eq!(texts(&conversation), expected);
        assert_eq!(conversation.head.updated, 5, "looking at a branch is not a change");
    }
    store.check().unwrap();
}

#[test]
fn turns_that_cannot_be_are_refused() {
    let store = store("turns");
    let id = begin(&store, 1);
    let question = say(&store, &id, None, "One?", 1);
    let reply = answer(&store, &id, question, "One.", 1);
    let refused = |message: Message, words: &str| {
        let error = store.append(&id, message, 2).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(Message::user(Some(question), "Two?"), "cannot follow another");
    refused(Message::assistant(reply, "Two."), "must follow a message of the user");
    refused(Message::user(Some(99), "Two?"), "has no message 99");
    refused(Message::user(Some(reply), " \n "), "must not be empty");
    let mut path = Message::user(Some(reply), "See");
    path.attachments.push(Attachment { name: "../passwd".into(), text: String::new() });
    refused(path, "plain file name");
    assert_eq!(store.get(&id).unwrap().messages.len(), 2);
    store.check().unwrap();
}

#[test]
fn every_limit_refuses_and_changes_nothing() {
    let limits = StoreLimits {
        message_bytes: 10,
        messages: 3,
        conversation_bytes: 400,
        conversations: 2,
        total_bytes: 270,
        title_bytes: 5,
        system_bytes: 4,
        ..StoreLimits::default()
    };
    let store = ConversationStore::open(&folder("limits"), limits).unwrap();
    let id = begin(&store, 1);
    #[track_caller]
    fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>, words: &str) {
        let error = result.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    refused(store.append(&id, Message::user(None, "12345678901"), 1), "the message: 11, and at most 10");
    let title = ConversationChange { title: Some("123456".into()), ..Default::default() };
    refused(store.update(&id, title, 1), "the title");
    let settings = Settings { system: "12345".into(), ..Settings::default() };
    refused(
        store.create(NewConversation { settings: settings.clone(), ..Default::default() }, 1),
        "the system prompt: 5, and at most 4",
    );
    refused(
        store.update(&id, ConversationChange { settings: Some(settings), ..Default::default() }, 1),
        "the system prompt",
    );
    for text in ["a", "b", "c"] {
        say(&store, &id, None, text, 1);
    }
    refused(store.append(&id, Message::user(None, "d"), 1), "begin a new conversation");
    let second = begin(&store, 2);
    refused(store.create(NewConversation::default(), 3), "conversations: 3, and at most 2");
    let mut filled = false;
    for _ in 0..3 {
        match store.append(&second, Message::user(None, "123456789"), 3) {
            Ok(_) => {}
            Err(error) => {
                filled = true;
                refused::<()>(Err(error), "bytes of all conversations");
            }
        }
    }
    assert!(filled);
    store.check().unwrap();
    // What was deleted makes room.
    store.delete(&id).unwrap();
    say(&store, &second, None, "123456789", 4);
    store.check().unwrap();
}

#[test]
fn settings_that_nobody_can_honour_are_refused() {
    let store = store("settings");
    for (json, words) in [
        (r#"{"temperature":-1}"#, "temperature"),
        (r#"{"top_p":0}"#, "top_p"),
        (r#"{"max_tokens":0}"#, "max_tokens"),
        (r#"{"seed":9007199254740992}"#, "seed"),
    ] {
        let settings: Settings = serde_json::from_str(json).unwrap();
        let error = store.create(NewConversation { settings, ..Default::default() }, 1).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let unknown = serde_json::from_str::<Settings>(r#"{"temprature":1}"#).unwrap_err().to_string();
    assert!(unknown.contains("temprature"), "{unknown}");
}

#[test]
fn the_list_has_the_latest_first_and_comes_in_pages() {
    let store = store("pages");
    let ids: Vec<_> = (0..25).map(|now| begin(&store, now)).collect();
    say(&store, &ids[3], None, "news", 100);
    let mut expected: Vec<_> = (0..25).rev().filter(|index| *index != 3).map(|index| ids[index].clone()).collect();
    expected.insert(0, ids[3].clone());
    let (mut seen, mut cursor, mut pages) = (Vec::new(), None::<PageCursor>, 0);
    loop {
        let page = store.list(cursor.as_ref(), 10).unwrap();
        seen.extend(page.conversations.into_iter().map(|head| head.id));
        pages += 1;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((seen, pages), (expected, 3));
    assert!(PageCursor::parse("12-no id").is_none());
    assert_eq!(store.delete_all().unwrap(), 25);
    assert_eq!(store.list(None, 10).unwrap().conversations, []);
    store.check().unwrap();
}

#[test]
fn search_finds_titles_texts_and_attachments() {
    let store = store("search");
    let first = begin(&store, 1);
    let question = say(&store, &first, None, "How do I sort a LIST?", 1);
    answer(&store, &first, question, "Call `sorted`.", 1);
    let second = begin(&store, 2);
    let mut message = Message::user(None, "See the file");
    message.attachments.push(Attachment { name: "main.rs".into(), text: "fn größe() {}".into() });
    store.append(&second, message, 2).unwrap();
    let found = |query: &str| {
        let result = store.search(query, 10).unwrap();
        assert!(result.complete);
        result.hits.into_iter().map(|hit| hit.head.id).collect::<Vec<_>>()
    };
    assert_eq!(found("list"), std::slice::from_ref(&first));
    assert_eq!(found("SORTED"), std::slice::from_ref(&first));
    assert_eq!(found("GRÖSSE"), []);
    assert_eq!(found("GRÖßE"), std::slice::from_ref(&second));
    assert_eq!(found("main.rs"), std::slice::from_ref(&second));
    assert_eq!(found("e"), [second, first]);
    assert!(!store.search("e", 1).unwrap().complete);
    assert!(store.search(&"x".repeat(201), 1).is_err());
}

#[test]
fn files_that_were_exported_can_be_imported() {
    let store = store("transfer");
    let settings = Settings { system: "Be brief.".into(), temperature: Some(0.7), ..Settings::default() };
    let new = NewConversation { title: "Archives".into(), model: "swarm".into(), settings };
    let id = store.create(new, 5).unwrap().id;
    let question = say(&store, &id, None, "What does tar do?", 6);
    answer(&store, &id, question, "An archiving utility.", 7);
    answer(&store, &id, question, "It makes archives.", 8);
    let conversation = store.get(&id).unwrap();

    let copies = store.import(export_json(&conversation).unwrap().as_bytes()).unwrap();
    assert_eq!(copies.len(), 1);
    assert_ne!(copies[0], id);
    let mut copy = store.get(&copies[0]).unwrap();
    copy.head.id = id;
    assert_eq!(copy, conversation);
    store.check().unwrap();

    assert_eq!(
        export_markdown(&conversation).unwrap(),
        "# Archives\n\n## System prompt\n\nBe brief.\n\n## You\n\nWhat does tar do?\n\n## Model\n\nIt makes archives.\n"
    );
}

#[test]
fn files_that_are_wrong_are_refused_whole() {
    let store = store("import");
    let file = |conversations: &str| {
        format!(r#"{{"format":"hublab-conversations","version":1,"conversations":[{conversations}]}}"#)
    };
    let good = r#"{"title":"","created":1,"updated":1,"messages":[{"id":7,"created":1,"role":"user","text":"a"}]}"#;
    let one = |messages: &str| {
        let bad = format!(r#"{{"title":"","created":1,"updated":1,"messages":[{messages}]}}"#);
        file(&format!("{good},{bad}"))
    };
    let long = "x".repeat((1 << 20) + 1);
    for (text, words) in [
        (String::from("nonsense"), "not a file of exported conversations"),
        (String::from(r#"{"format":"other","version":1,"conversations":[]}"#), "format `other` version 1"),
        (String::from(r#"{"format":"hublab-conversations","version":2,"conversations":[]}"#), "version 2"),
        (file(&format!("{good},{{}}")), "title"),
        (one(r#"{"id":1,"created":1,"role":"user","text":"a","colour":1}"#), "colour"),
        (one(r#"{"id":1,"created":1,"role":"system","text":"a"}"#), "system"),
        (one(r#"{"id":1,"parent":0,"created":1,"role":"user","text":"a"}"#), "conversation 2 of the file: message 1"),
        (one(r#"{"id":1,"parent":1,"created":1,"role":"assistant","text":"a"}"#), "does not come before"),
        (one(r#"{"id":1,"created":1,"role":"assistant","text":"a"}"#), "must follow a message of the user"),
        (one(r#"{"id":1,"created":999999999999999,"role":"user","text":"a"}"#), "year 9999"),
        (one(&format!(r#"{{"id":1,"created":1,"role":"user","text":"{long}"}}"#)), "the message"),
        (
            one(r#"{"id":1,"created":1,"role":"user","text":"a"},{"id":1,"created":1,"role":"user","text":"b"}"#),
            "two messages have the id 1",
        ),
        (file(&good.replace("\"messages\"", "\"active\":3,\"messages\"")), "active message 3"),
        ("[".repeat(100_000), "not a file"),
    ] {
        let error = store.import(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(store.ids().unwrap(), [], "{words}");
    }
    assert_eq!(store.import(file(good).as_bytes()).unwrap().len(), 1);
    store.check().unwrap();
}

#[test]
fn a_conversation_of_a_file_that_is_too_long_is_not_even_read() {
    let limits = StoreLimits { conversation_bytes: 100, ..StoreLimits::default() };
    let store = ConversationStore::open(&folder("import-long"), limits).unwrap();
    let conversation = format!(r#"{{"title":"{}"}}"#, "x".repeat(300));
    let file = format!(r#"{{"format":"hublab-conversations","version":1,"conversations":[{conversation}]}}"#);
    let error = store.import(file.as_bytes()).unwrap_err().to_string();
    assert!(
        error.contains("conversation 1 of the file: bytes of a conversation in a file: 312, and at most 300"),
        "{error}"
    );
}

#[test]
fn titles_are_the_beginning_of_the_first_line_that_says_something() {
    assert_eq!(title_of("\n  What   does\ttar do?\nmore"), "What does tar do?");
    assert_eq!(title_of(&"word ".repeat(40)), format!("{}…", "word ".repeat(12).trim_end()));
    assert_eq!(title_of(&"ü".repeat(61)), format!("{}…", "ü".repeat(60)));
    assert_eq!(title_of(" \n"), "");
}

#[test]
fn nobody_sees_what_belongs_to_another_owner() {
    let ada = store("owners").for_owner("ada");
    let bob = ada.for_owner("bob");
    let id = begin(&ada, 1);
    let question = say(&ada, &id, None, "What is a secret?", 1);
    assert_eq!((bob.ids().unwrap(), bob.list(None, 9).unwrap().conversations), (vec![], vec![]));
    assert_eq!(bob.search("secret", 9).unwrap().hits, []);
    let none = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::NoConversation(_))));
    none(bob.get(&id).map(|_| ()));
    none(bob.update(&id, ConversationChange::default(), 2).map(|_| ()));
    none(bob.append(&id, Message::assistant(question, "This."), 2).map(|_| ()));
    none(bob.delete(&id));
    assert_eq!(bob.delete_all().unwrap(), 0);
    begin(&bob, 3);
    assert_eq!((ada.ids().unwrap().len(), bob.ids().unwrap().len()), (1, 1));
    ada.check().unwrap();
    assert_eq!(ada.delete_all().unwrap(), 1);
    assert_eq!(bob.ids().unwrap().len(), 1);
    bob.check().unwrap();
}

#[test]
fn a_second_opener_is_told_and_the_first_goes_on() {
    let folder = folder("lock");
    let first = ConversationStore::open(&folder, StoreLimits::default()).unwrap();
    let error = ConversationStore::open(&folder, StoreLimits::default()).err().unwrap();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    begin(&first, 1);
    drop(first);
    let again = ConversationStore::open(&folder, StoreLimits::default()).unwrap();
    assert_eq!(again.ids().unwrap().len(), 1);
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder("mode");
    drop(ConversationStore::open(&folder, StoreLimits::default()).unwrap());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&folder.join(FILE_NAME))), (0o700, 0o600));
}

#[test]
fn a_file_that_is_something_else_is_named_and_left_alone() {
    let folder = folder("foreign");
    std::fs::create_dir_all(&folder).unwrap();
    let text = b"# Shopping\n\nbread, butter\n".repeat(400);
    std::fs::write(folder.join(FILE_NAME), &text).unwrap();
    let error = ConversationStore::open(&folder, StoreLimits::default()).err().unwrap();
    assert!(matches!(error, StoreError::NotAStore { .. }), "{error}");
    assert!(error.to_string().contains(FILE_NAME), "{error}");
    assert_eq!(std::fs::read(folder.join(FILE_NAME)).unwrap(), text);

    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "a file where the folder should be").unwrap();
    let error = ConversationStore::open(&folder, StoreLimits::default()).err().unwrap();
    assert!(matches!(error, StoreError::File { .. }), "{error}");
}

/// A file cut or changed anywhere either opens or is refused; nothing hangs and nothing ends the process.
#[test]
fn a_broken_file_never_ends_the_service() {
    let whole = folder("broken");
    {
        let store = ConversationStore::open(&whole, StoreLimits::default()).unwrap();
        let id = begin(&store, 1);
        let question = say(&store, &id, None, "What does tar do?", 1);
        answer(&store, &id, question, "An archiving utility.", 2);
    }
    let bytes = std::fs::read(whole.join(FILE_NAME)).unwrap();
    let mut refused = 0;
    let mut attempt = |bytes: &[u8], number: usize| {
        let folder = folder(&format!("broken-{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(FILE_NAME), bytes).unwrap();
        let opened = ConversationStore::open(&folder, StoreLimits::default());
        refused += usize::from(opened.is_err());
        drop(opened);
        std::fs::remove_dir_all(&folder).unwrap();
    };
    for part in 1..8 {
        attempt(&bytes[..bytes.len() * part / 8], part);
    }
    for number in 0..48 {
        let mut changed = bytes.clone();
        // The head of the file closely, the pages in larger steps.
        let at = if number < 24 { number * 13 } else { number * changed.len() / 48 };
        for byte in &mut changed[at..(at + 8)] {
            *byte ^= 0xa5;
        }
        attempt(&changed, 100 + number);
    }
    assert!(refused > 7, "{refused}");
}

const WRITER: &str = "HUBLAB_TEST_WRITER";
const CHATS: usize = 20;

/// Not a test by itself: the process that `killed_in_the_middle_of_twenty_chats` kills.
#[test]
fn writer_process() {
    let Some(folder) = std::env::var_os(WRITER) else { return };
    let store = Arc::new(ConversationStore::open(Path::new(&folder), StoreLimits::default()).unwrap());
    let output = Arc::new(Mutex::new(()));
    let ids: Vec<_> = (0..CHATS).map(|_| begin(&store, 1)).collect();
    let chats: Vec<_> = ids
        .into_iter()
        .enumerate()
        .map(|(chat, id)| {
            let (store, output) = (Arc::clone(&store), Arc::clone(&output));
            std::thread::spawn(move || {
                let mut parent = None;
                for turn in 0..1_000_u64 {
                    let question = say(&store, &id, parent, &format!("question {chat} {turn}"), turn);
                    let reply = answer(&store, &id, question, &format!("answer {chat} {turn}"), turn);
                    parent = Some(reply);
                    let _one_line_at_a_time = output.lock().unwrap();
                    println!("\nkept {id} {question} {reply} {chat} {turn}");
                }
            })
        })
        .collect();
    chats.into_iter().for_each(|chat| chat.join().unwrap());
}

#[test]
fn killed_in_the_middle_of_twenty_chats() {
    let folder = folder("killed");
    let mut acknowledged: Vec<[String; 5]> = Vec::new();
    for round in 1..=3 {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--nocapture"])
            .env(WRITER, &folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut kept = 0;
        // What the pipe still holds after the kill was acknowledged as well, so the reading goes on to its end.
        for line in lines {
            let line = line.unwrap();
            let Some(words) = line.strip_prefix("kept ") else { continue };
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            let Ok(words) = <[String; 5]>::try_from(words) else { continue };
            acknowledged.push(words);
            kept += 1;
            if kept == 60 {
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        assert!(kept >= 60, "the writer ended by itself after {kept}");

        let store = ConversationStore::open(&folder, StoreLimits::default()).unwrap();
        store.check().unwrap();
        assert_eq!(store.ids().unwrap().len(), CHATS * round);
        for [id, question, reply, chat, turn] in &acknowledged {
            let conversation = store.get(&ConversationId::parse(id).unwrap()).unwrap();
            let text = |message: &String| &conversation.messages[message.parse::<usize>().unwrap()].text;
            assert_eq!(*text(question), format!("question {chat} {turn}"));
            assert_eq!(*text(reply), format!("answer {chat} {turn}"));
        }
    }
}

/// JSON that resembles an exported file, more or less.
fn almost_a_file() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::{Value, json};
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0_u64..4).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-zü`/ ]{0,6}".prop_map(Value::from),
        Just(Value::from("user")),
        Just(Value::from("assistant")),
    ];
    let value = leaf.prop_recursive(3, 24, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Value::from));
    let message = (0_u64..4, prop::option::of(0_u64..4), any::<bool>(), prop::option::weighted(0.1, value.clone()))
        .prop_map(|(id, parent, user, text)| {
            let role = if user { "user" } else { "assistant" };
            let mut message = json!({"id": id, "created": 1, "role": role, "text": text.unwrap_or(json!("text"))});
            if let Some(parent) = parent {
                message["parent"] = json!(parent);
            }
            message
        });
    (prop::collection::vec(message, 0..5), prop::option::weighted(0.2, ("[a-z_]{2,8}", value))).prop_map(
        |(messages, other)| {
            let mut conversation = json!({"title": "t", "created": 1, "updated": 2, "messages": messages});
            if let Some((key, value)) = other {
                conversation[key] = value;
            }
            json!({"format": "hublab-conversations", "version": 1, "conversations": [conversation]})
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever JSON comes: taken whole, and then the store is consistent and gives it back; or refused, and nothing changed.
    #[test]
    fn imports_are_whole_or_nothing(file in almost_a_file()) {
        use std::sync::OnceLock;
        static STORE: OnceLock<ConversationStore> = OnceLock::new();
        let store = STORE.get_or_init(|| store("arbitrary"));
        store.delete_all().unwrap();
        if let Ok(ids) = store.import(file.to_string().as_bytes()) {
            prop_assert_eq!(ids.len(), store.ids().unwrap().len());
            for id in ids {
                let exported = export_json(&store.get(&id).unwrap()).unwrap();
                prop_assert!(store.import(exported.as_bytes()).is_ok());
            }
        } else {
            prop_assert_eq!(store.ids().unwrap(), []);
        }
        store.check().unwrap();
    }
}
