//! `docs/CLI.md` is the help of every verb, and `docs/man` their manual pages, as the flag table has it.
//! `HUBLAB_BLESS=1 cargo test -p hublabio-cli` writes them anew.

use std::fmt::Write as _;

use clap::CommandFactory;

use crate::args::Cli;

const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/man");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CLI.md");

fn reference() -> String {
    let mut text = "# Command line\n\n\
        Generated from the program's own help; `HUBLAB_BLESS=1 cargo test -p hublabio-cli` writes it anew.\n"
        .to_owned();
    let mut root = Cli::command();
    root.build();
    write_verbs(&mut text, &mut root);
    text
}

/// The help of a command and of all below it.
fn write_verbs(text: &mut String, command: &mut clap::Command) {
    write_help(text, command);
    for verb in command.get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
        write_verbs(text, verb);
    }
}

fn write_help(text: &mut String, command: &mut clap::Command) {
    let title = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let lines: Vec<_> = help.trim_end().lines().map(str::trim_end).collect();
    write!(text, "\n## {title}\n\n```text\n{}\n```\n", lines.join("\n")).expect("a String takes any text");
}

#[test]
fn the_committed_reference_is_the_programs_help() {
    let generated = reference();
    if is_blessed() {
        std::fs::write(PATH, &generated).expect("docs/CLI.md can be written");
    }
    let committed = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(committed == generated, "docs/CLI.md is out of date: run HUBLAB_BLESS=1 cargo test -p hublabio-cli");
}

#[test]
fn the_committed_manual_is_the_programs() {
    let pages = crate::man::pages().expect("the pages can be made");
    if is_blessed() {
        // A verb that is gone leaves no page behind.
        let _ = std::fs::remove_dir_all(MANUAL);
        std::fs::create_dir_all(MANUAL).expect("docs can be written");
        for (name, page) in &pages {
            std::fs::write(format!("{MANUAL}/{name}"), page).expect("docs/man can be written");
        }
    }
    let entries = std::fs::read_dir(MANUAL).expect("docs/man is there");
    let mut committed: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut names: Vec<&String> = pages.iter().map(|(name, _)| name).collect();
    committed.sort_unstable();
    names.sort_unstable();
    assert!(committed.iter().eq(names), "docs/man has other pages than there are verbs");
    for (name, page) in &pages {
        let committed = std::fs::read(format!("{MANUAL}/{name}")).unwrap_or_default();
        assert!(committed == *page, "docs/man/{name} is out of date: run HUBLAB_BLESS=1 cargo test -p hublabio-cli");
    }
}

fn is_blessed() -> bool {
    std::env::var_os("HUBLAB_BLESS").is_some_and(|value| value == "1")
}

#[test]
fn every_verb_has_examples_and_every_flag_a_description() {
    let mut root = Cli::command();
    root.clone().debug_assert();
    root.build();
    check_verbs(&mut root);
}

fn check_verbs(command: &mut clap::Command) {
    for verb in command.get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
        let name = verb.get_bin_name().unwrap_or(verb.get_name()).to_owned();
        let help = verb.render_long_help().to_string();
        assert!(help.contains("Examples:") && help.contains(&name), "{name}: no example");
        for argument in verb.get_arguments() {
            assert!(argument.get_help().is_some(), "{name}: {} has no description", argument.get_id());
        }
        for line in help.lines() {
            assert!(line.chars().count() <= 110, "{name}: a line of the help is too long: {line}");
        }
        check_verbs(verb);
    }
}
