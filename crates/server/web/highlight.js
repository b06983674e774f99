// Colours for code: a few languages, told apart into comments, strings, numbers, keywords and names of functions. Not a
// parser: what it does not know stays plain. One pass over the text, in linear time.

/** Longer code stays plain. */
const LENGTH_MAX = 100_000;

const words = (text) => new Set(text.split(" "));

const C_STRING = String.raw`"(?:\\[^]|[^"\\\n])*"?`;
const NUMBER = String.raw`\b(?:0[xob][\da-f_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:e[+-]?\d+)?)[a-z\d_]*`;
const NAME = String.raw`[\p{L}_$][\p{L}\p{N}_$]*`;

// Alternatives in the order in which they are tried; the groups are comment, string, number, name.
const language = (comment, string, keywords) => ({
  pattern: new RegExp(`(${comment})|(${string})|(${NUMBER})|(${NAME})`, "giuy"),
  keywords: words(keywords),
});

const LANGUAGES = {
  rust: language(
    String.raw`\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)`,
    String.raw`b?r(?<h>#{0,8})"[^]*?(?:"\k<h>|$)|b?${C_STRING}|b?'(?:\\[^\n]{1,10}?|[^'\\\n])'`,
    "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub " +
      "ref return self Self static struct super trait true type union unsafe use where while",
  ),
  python: language(
    String.raw`#[^\n]*`,
    String.raw`[bfru]{0,2}(?:"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|${C_STRING}|'(?:\\[^]|[^'\\\n])*'?)`,
    "False None True and as assert async await break case class continue def del elif else except finally for from global " +
      "if import in is lambda match nonlocal not or pass raise return try while with yield",
  ),
  javascript: language(
    String.raw`\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)`,
    "`(?:\\\\[^]|[^`\\\\])*`?|" + String.raw`${C_STRING}|'(?:\\[^]|[^'\\\n])*'?`,
    "async await break case catch class const continue debugger default delete do else export extends false finally for " +
      "from function if import in instanceof interface let new null of return static super switch this throw true try type " +
      "typeof undefined var void while with yield",
  ),
  bash: language(
    String.raw`(?<![^\s;])#[^\n]*`,
    String.raw`"(?:\\[^]|[^"\\])*"?|'[^']*'?|\$(?:\{[^}\n]*\}?|[\w@#?*!$-])\w*`,
    "case do done elif else esac export fi for function if in local readonly return select then until while",
  ),
  json: language("(?!)", C_STRING, "true false null"),
};
const ALIASES = {
  rs: "rust", py: "python", python3: "python", js: "javascript", mjs: "javascript", ts: "javascript", typescript: "javascript",
  jsx: "javascript", tsx: "javascript", sh: "bash", shell: "bash", zsh: "bash", console: "bash", jsonc: "json",
};

const KINDS = ["", "comment", "string", "number"];

/** Pieces of the code, [kind, text]; joined they are the code. The kind is empty for plain text. */
export function highlight(text, name) {
  const found = Object.hasOwn(LANGUAGES, name) ? name : Object.hasOwn(ALIASES, name) ? ALIASES[name] : null;
  if (!found || text.length > LENGTH_MAX) return text === "" ? [] : [["", text]];
  const { pattern, keywords } = LANGUAGES[found];
  const pieces = [];
  const put = (kind, piece) => {
    if (pieces.at(-1)?.[0] === kind) pieces.at(-1)[1] += piece;
    else pieces.push([kind, piece]);
  };
  let at = 0;
  while (at < text.length) {
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (!match || match[0] === "") {
      const [character] = text.slice(at, at + 2);
      put("", character);
      at += character.length;
      continue;
    }
    const groups = match.slice(1).filter((_, index) => !isInner(found, index));
    const kind = KINDS[groups.findIndex((group) => group !== undefined) + 1];
    put(kind ?? nameKind(match[0], text, at, keywords), match[0]);
    at += match[0].length;
  }
  return pieces;
}

/** Rust's raw strings need a group of their own, the third. */
const isInner = (name, index) => name === "rust" && index === 2;

function nameKind(name, text, at, keywords) {
  if (keywords.has(name)) return "keyword";
  return text[at + name.length] === "(" || text[at + name.length] === "!" ? "call" : "";
}
