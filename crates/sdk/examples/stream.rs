//! One answer, as it comes: `cargo run -p hublabio-sdk --example stream "Why is the sky blue?"`, beside a running `hublab serve`.

use std::io::Write;
use std::process::ExitCode;

use hublabio_sdk::ai::{AiClient, GenerateOptions, Piece, Result};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "What does tar do?".into());
    let client = AiClient::connect()?;
    let options = GenerateOptions { progress: true, ..GenerateOptions::default() };
    let mut stream = client.stream(&prompt, &options)?;
    for piece in &mut stream {
        match piece? {
            Piece::Progress(progress) => eprintln!("read {} of {} tokens", progress.processed, progress.total),
            piece => print!("{piece}"),
        }
        // A terminal that is gone ends the program with the next piece.
        let _ = std::io::stdout().flush();
    }
    let response = stream.response();
    println!();
    for expert in &response.answered_by {
        eprintln!("{} ({:.0} %): {}", expert.expert, expert.weight * 100.0, expert.why);
    }
    if let Some(timings) = response.timings {
        eprintln!("{} tokens, {:.0} tokens/s", response.usage.completion_tokens, timings.tokens_per_s);
    }
    Ok(())
}
