//! `{% generation %}` … `{% endgeneration %}`: `transformers` adds this block to Jinja to mark what the assistant said,
//! for training. In a prompt it is only its content, so that it becomes a block that the engine has.

use std::borrow::Cow;

/// `source` with the marks replaced by `{% with %}`, which opens a scope as they do; every other byte keeps its place,
/// so that errors still name the right column.
pub fn without_marks(source: &str) -> Cow<'_, str> {
    // Of the same lengths as the words that they replace.
    const WORDS: [(&str, &str); 2] = [("generation", "with      "), ("endgeneration", "endwith      ")];
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{#")).min() {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        if tag.starts_with("{#") {
            // Nothing in a comment is a block.
            let end = tag.find("#}").map_or(tag.len(), |end| end + 2);
            out.push_str(&tag[..end]);
            rest = &tag[end..];
            continue;
        }
        let inside = &tag[2..];
        let word_at = inside.find(|c: char| !c.is_whitespace() && c != '-' && c != '+').unwrap_or(inside.len());
        let body = &inside[word_at..];
        let word = &body[..body.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(body.len())];
        if word == "raw" {
            let end = body.find("endraw").unwrap_or(body.len());
            let end = 2 + word_at + end;
            out.push_str(&tag[..end]);
            rest = &tag[end..];
            continue;
        }
        let ends = body[word.len()..].trim_start_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replaced = WORDS.iter().find(|(from, _)| *from == word && ends.starts_with("%}"));
        out.push_str(&tag[..2 + word_at]);
        out.push_str(replaced.map_or(word, |(_, to)| to));
        rest = &body[word.len()..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_blocks_are_replaced_and_nothing_moves() {
        for (source, expected) in [
            ("{% generation %}a{% endgeneration %}", "{% with       %}a{% endwith       %}"),
            ("{%- generation -%} generation {%-endgeneration-%}", "{%- with       -%} generation {%-endwith      -%}"),
            ("{# {% generation %} #}{{ generation }}", "{# {% generation %} #}{{ generation }}"),
            ("{% raw %}{% generation %}{% endraw %}", "{% raw %}{% generation %}{% endraw %}"),
            ("{% if generation %}x{% endif %}", "{% if generation %}x{% endif %}"),
            ("{% set generation = 1 %}", "{% set generation = 1 %}"),
            ("{% generation", "{% generation"),
            ("{% é generation {#", "{% é generation {#"),
        ] {
            assert_eq!(without_marks(source), expected);
            assert_eq!(without_marks(source).len(), source.len());
        }
    }
}
