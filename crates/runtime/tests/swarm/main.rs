//! A swarm with real models: experts in files, one budget, answers to many at once, and everything that can go wrong.

mod answers;
#[cfg(target_os = "linux")]
mod budget;
mod files;
mod models;

use hublabio_runtime::moe::{AnswerOptions, FleetConfig, Flow, SwarmAnswer, SwarmEngine, SwarmPiece, SwarmRequest};
use hublabio_runtime::{Error, moe};

use models::Folder;

fn open(folder: &Folder) -> SwarmEngine {
    SwarmEngine::open(Some(&folder.0), &FleetConfig::default()).unwrap()
}

/// The answer, which is what was streamed.
fn answer(swarm: &SwarmEngine, request: &SwarmRequest) -> Result<SwarmAnswer, Error> {
    let mut streamed = String::new();
    let answer = swarm.answer(request, &AnswerOptions::default(), &mut |piece| {
        if let SwarmPiece::Text(text) = piece {
            streamed.push_str(text);
        }
        Flow::Continue(())
    })?;
    assert_eq!(streamed, answer.synthesis.text, "what is streamed is the answer");
    Ok(answer)
}

fn ask(swarm: &SwarmEngine, text: &str) -> SwarmAnswer {
    answer(swarm, &SwarmRequest { max_tokens: Some(24), ..SwarmRequest::new(text) }).unwrap()
}

fn names(answer: &SwarmAnswer) -> Vec<&str> {
    answer.synthesis.contributions.iter().map(|c| c.name.as_str()).collect()
}

/// A folder without the built-in experts: `general` is the default model.
fn folder(name: &str) -> Folder {
    let folder = Folder::new(name);
    folder.write("swarm.toml", "builtin = false\n");
    folder.expert("general", "builtin:default", "generalist = true");
    folder
}
