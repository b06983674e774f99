//! `hublab man`: manual pages, made from the flag table.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::{Cli, ManArgs};
use crate::output;

pub fn man(args: &ManArgs) -> Result<ExitCode> {
    let pages = pages()?;
    match &args.out {
        None => output::bytes(&pages[0].1)?,
        Some(folder) => {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            for (name, page) in &pages {
                write(&folder.join(name), page)?;
            }
            output::message(&format!("{} pages are in {}", pages.len(), folder.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, page: &[u8]) -> Result<()> {
    fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// File names and pages: the program's, then each verb's.
pub fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    add(&mut pages, &root)?;
    Ok(pages)
}

fn add(pages: &mut Vec<(String, Vec<u8>)>, command: &clap::Command) -> Result<()> {
    let man = Man::new(command.clone()).source(concat!("hublab ", env!("CARGO_PKG_VERSION"))).manual("HubLab IO");
    let mut page = Vec::new();
    man.render(&mut page)?;
    let page = String::from_utf8(page).context("a manual page is text")?;
    pages.push((man.get_filename(), unfilled_examples(&page).into_bytes()));
    command.get_subcommands().try_for_each(|verb| add(pages, verb))
}

/// The text below the flags, which has examples and JSON in it, keeps its line breaks.
fn unfilled_examples(page: &str) -> String {
    const HEADING: &str = ".SH EXTRA\n";
    let Some((before, rest)) = page.split_once(HEADING) else { return page.to_owned() };
    let (text, after) = rest.find("\n.SH ").map_or((rest, ""), |at| rest.split_at(at + 1));
    format!("{before}.SH EXAMPLES AND NOTES\n.nf\n{text}.fi\n{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_keep_their_lines() {
        let page = "a\n.SH EXTRA\nExamples:\n  x\n.SH VERSION\nv1\n";
        assert_eq!(unfilled_examples(page), "a\n.SH EXAMPLES AND NOTES\n.nf\nExamples:\n  x\n.fi\n.SH VERSION\nv1\n");
        assert_eq!(unfilled_examples("a\n.SH EXTRA\nx\n"), "a\n.SH EXAMPLES AND NOTES\n.nf\nx\n.fi\n");
        assert_eq!(unfilled_examples("a\n"), "a\n");
    }
}
