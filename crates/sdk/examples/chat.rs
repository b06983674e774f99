//! A conversation at the terminal: `cargo run -p hublabio-sdk --example chat [MODEL]`, beside a running `hublab serve`.

use std::io::{BufRead, Write};
use std::process::ExitCode;

use hublabio_sdk::ai::{AiClient, ChatSession, Result};

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
    let mut client = AiClient::connect()?;
    if let Some(model) = std::env::args().nth(1) {
        client.load_model(&model)?;
    }
    let mut chat = ChatSession::new(client);
    chat.set_system_prompt("You are a helpful assistant.");
    for line in std::io::stdin().lock().lines().map_while(std::io::Result::ok) {
        let mut stream = chat.chat_stream(&line)?;
        for piece in &mut stream {
            print!("{}", piece?);
            // A terminal that is gone ends the program with the next line.
            let _ = std::io::stdout().flush();
        }
        println!();
        for note in stream.keep().notes {
            eprintln!("note: {note}");
        }
    }
    Ok(())
}
