// The Markdown of answers, without a browser: the tree, its safety, and that no text takes long.

import assert from "node:assert/strict";
import { test } from "node:test";

import { highlight } from "../../../crates/server/web/highlight.js";
import { MarkdownView, parse, parseInline, safeHref, toDom } from "../../../crates/server/web/markdown.js";

/** A tree in short: <tag>…</tag>, text as it is. */
const show = (node) => {
  if (typeof node === "string") return node;
  if (Array.isArray(node)) return node.map(show).join("");
  const extra = node.href ?? node.language ?? node.start ?? (node.align && node.align !== "left" ? node.align : "");
  return `<${node.tag}${extra === "" ? "" : ` ${extra}`}>${show(node.children)}</${node.tag}>`;
};

const inline = [
  ["plain", "plain"],
  ["**bold** and *thin*", "<strong>bold</strong> and <em>thin</em>"],
  ["***both***", "<em><strong>both</strong></em>"],
  ["a **b *c* d**", "a <strong>b <em>c</em> d</strong>"],
  ["snake_case_name and _this_", "snake_case_name and <em>this</em>"],
  ["2 * 3 * 4", "2 * 3 * 4"],
  ["~~gone~~", "<del>gone</del>"],
  ["3~5 days, 7~9 weeks, ~10", "3~5 days, 7~9 weeks, ~10"],
  ["one<br>two<BR/>three<br />four <brx>", "one<br></br>two<br></br>three<br></br>four <brx>"],
  ["[*![a](https://a.example)*](https://b.example)", "<a https://b.example/><em>[picture: a]</em></a>"],
  ["**open", "**open"],
  ["open `code", "open `code"],
  ["`a` `` b`c `` ```x", "<code>a</code> <code>b`c</code> ```x"],
  ["`**not bold**`", "<code>**not bold**</code>"],
  ["\\*plain\\* \\`too\\`", "*plain* `too`"],
  ["[a](https://a.example/x_y_z)", "<a https://a.example/x_y_z>a</a>"],
  ["[**a**](https://a.example 'title')", "<a https://a.example/><strong>a</strong></a>"],
  ["[a](https://a.example/(b))", "<a https://a.example/(b)>a</a>"],
  ["[a](mailto:a@b.example)", "<a mailto:a@b.example>a</a>"],
  ["[a](javascript:alert(1))", "a"],
  ["[a](JaVaScRiPt:alert(1)) [b](data:text/html,x) [c](file:///etc/passwd) [d](//x.example)", "a b c d"],
  ["[a](java\tscript:alert(1))", "a"],
  ["![a](https://a.example/b.png)", "<a https://a.example/b.png>[picture: a]</a>"],
  ["![a](data:image/png;base64,x)", "[picture: a]"],
  ["[a [b](https://b.example)](https://a.example)", "[a <a https://b.example/>b</a>](<a https://a.example/>https://a.example</a>)"],
  ["[half](https://", "[half](https://"],
  ["See https://a.example/b(c). And (https://d.example).",
    "See <a https://a.example/b(c)>https://a.example/b(c)</a>. And (<a https://d.example/>https://d.example</a>)."],
  ["<script>alert(1)</script> <b>&amp;", "<script>alert(1)</script> <b>&amp;"],
  ["one\ntwo", "one<br></br>two"],
];
for (const [text, expected] of inline) {
  test(`inline: ${JSON.stringify(text)}`, () => assert.equal(show(parseInline(text)), expected));
}

const blocks = [
  ["# One\ntext\n## Two ##\n#no heading", "<h1>One</h1><p>text</p><h2>Two</h2><p>#no heading</p>"],
  ["a\n\nb\nc", "<p>a</p><p>b<br></br>c</p>"],
  ["```rust\nfn main() {}\n```\nafter", "<pre rust>fn main() {}</pre><p>after</p>"],
  ["```\nopen\n# no heading", "<pre>open\n# no heading</pre>"],
  ["````\n```\n````", "<pre>```</pre>"],
  ["~~~ python title\nx\n~~~", "<pre python>x</pre>"],
  ["- a\n- b\n  more\n  - c\n- d", "<ul><li>a</li><li>b<br></br>more<ul><li>c</li></ul></li><li>d</li></ul>"],
  ["- a\n\t- b\n\t\t- c\n- d", "<ul><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li><li>d</li></ul>"],
  ["1. Make:\n\t```make\n\tall:\n\t\techo\n\t```", "<ol><li>Make:<pre make>all:\n\techo</pre></li></ol>"],
  ["```make\nall:\n\techo\n```", "<pre make>all:\n\techo</pre>"],
  ["3. a\n4. b", "<ol 3><li>a</li><li>b</li></ol>"],
  ["1. a\n\n2. b", "<ol><li><p>a</p></li><li><p>b</p></li></ol>"],
  ["- [ ] open\n- [x] done", "<ul><li>☐ open</li><li>☑ done</li></ul>"],
  ["1. Run:\n   ```bash\n   ls\n   ```\n2. Look", "<ol><li>Run:<pre bash>ls</pre></li><li>Look</li></ol>"],
  ["> a\n> - b\n\nc", "<blockquote><p>a</p><ul><li>b</li></ul></blockquote><p>c</p>"],
  ["| a | b |\n|---|--:|\n| 1 | `x|y` |\n| 2 |\n\nend",
    "<table><thead><tr><th>a</th><th right>b</th></tr></thead><tbody><tr><td>1</td><td right><code>x|y</code></td></tr>" +
      "<tr><td>2</td><td right></td></tr></tbody></table><p>end</p>"],
  ["| a | b |", "<p>| a | b |</p>"],
  ["a\n\n---\n***\n- - -", "<p>a</p><hr></hr><hr></hr><hr></hr>"],
  ["a\r\nb\r\n\r\nc", "<p>a<br></br>b</p><p>c</p>"],
  ["", ""],
];
for (const [text, expected] of blocks) {
  test(`blocks: ${JSON.stringify(text)}`, () => assert.equal(show(parse(text)), expected));
}

test("only harmless addresses are followed", () => {
  for (const bad of ["javascript:alert(1)", " javascript:alert(1)", "vbscript:x", "data:text/html,x", "ftp://x", "/x", "x", "",
    `https://a.example/${"x".repeat(2000)}`]) {
    assert.equal(safeHref(bad), null, bad);
  }
});

// ---- a document that is only what the renderer needs ----

class FakeNode {
  constructor(tag, text = "") {
    Object.assign(this, { tag, text, children: [], attributes: {}, className: "", parent: null });
  }
  get ownerDocument() { return fakeDocument; }
  set textContent(text) { this.children = [new FakeNode("#text", text)]; }
  get textContent() { return this.tag === "#text" ? this.text : this.children.map((child) => child.textContent).join(""); }
  setAttribute(name, value) { this.attributes[name] = value; }
  append(...nodes) {
    for (const node of nodes) {
      node.parent = this;
      this.children.push(node);
    }
  }
  remove() { this.parent.children.splice(this.parent.children.lastIndexOf(this), 1); }
  replaceChildren() { this.children = []; }
  get html() {
    return this.tag === "#text" ? this.text : `<${this.tag}>${this.children.map((child) => child.html).join("")}</${this.tag}>`;
  }
}
const fakeDocument = {
  createElement: (tag) => new FakeNode(tag),
  createTextNode: (text) => new FakeNode("#text", text),
};

test("links open elsewhere and tell nothing", () => {
  const [paragraph] = parse("[a](https://a.example)").map((node) => toDom(node, fakeDocument));
  assert.deepEqual(paragraph.children[0].attributes,
    { href: "https://a.example/", rel: "noopener noreferrer nofollow", target: "_blank" });
});

/** Numbers that are the same in every run. */
function generator(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const SHARDS = ["*", "**", "_", "`", "```", "\n", "\n\n", "- ", "  ", "    ", "1. ", "> ", "# ", "|", "---", "|--|", "[", "](", ")",
  "![", "https://a.example/", "<", "~~", "~~~", "\\", "word", " ", "ü", "😀", "\u0000", "\r\n", "[x] ", "(", "javascript:"];

const random = (next, length) => Array.from({ length }, () => SHARDS[next(SHARDS.length)]).join("");

test("random texts give allowed tags, harmless links and every letter once", () => {
  const allowed = new Set(["p", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "pre", "blockquote", "ul", "ol", "li", "table", "thead",
    "tbody", "tr", "th", "td", "em", "strong", "del", "code", "br", "a"]);
  const next = generator(1);
  for (let round = 0; round < 3000; round++) {
    const text = random(next, 1 + next(60));
    const visit = (node) => {
      if (typeof node === "string") return;
      assert.ok(allowed.has(node.tag), `${node.tag} from ${JSON.stringify(text)}`);
      if (node.tag === "a") assert.equal(safeHref(node.href), node.href, JSON.stringify(text));
      node.children.forEach(visit);
    };
    const tree = parse(text);
    tree.forEach(visit);
    const count = (string) => string.split("ü").length;
    // A link's target and a fence's language are not shown; without those every letter is.
    if (!/\]\(|```|~~~/.test(text)) assert.equal(count(show(tree)), count(text), JSON.stringify(text));
  }
});

test("an ordinary answer is right at every moment while it grows", () => {
  const text = "# Sorting\n\nCall **sorted**:\n\n```python\nsorted([3, 1])\n```\n\n1. It is *stable*.\n2. It makes a new list.\n\n" +
    "| a | b |\n|---|---|\n| 1 | 2 |\n\nEnd.";
  const element = new FakeNode("div");
  const view = new MarkdownView(element);
  for (let end = 1; end <= text.length; end++) {
    view.push(text[end - 1]);
    view.render();
    const whole = new FakeNode("div");
    for (const node of parse(text.slice(0, end))) whole.append(toDom(node, fakeDocument));
    assert.equal(element.html, whole.html, JSON.stringify(text.slice(0, end)));
  }
});

// Work that grew with the square of the length would take minutes here; the runner's limit of a minute ends it then.
const HOSTILE = ["*a ", "**", "* ", "_a_ ", "[", "[a](", "![", "](", "`", "``a`", "`a", "> ", "- ", "1. ", "|a", "|\n", "~~", "~a",
  "\\", "http://a", "((", "<", "# ", " ", "\n", "```\n", "a|b\n-|-\n", "![a](https://a.example)", "*a_", "[[a](https://a.example)"];
for (const piece of HOSTILE) {
  test(`repeated without end: ${JSON.stringify(piece)}`, { timeout: 60_000 }, () => {
    const text = piece.repeat(200_000 / piece.length);
    for (const node of parse(text)) toDom(node, fakeDocument);
  });
}
test("a table with more columns than anyone reads is text", () => {
  const [node] = parse(`${"a|".repeat(500)}\n${"-|".repeat(500)}\n${"|\n".repeat(1000)}`);
  assert.equal(node.tag, "p");
});

test("nothing nests deeper than a page bears", () => {
  const depth = (node) => (typeof node === "string" ? 0 : 1 + Math.max(0, ...node.children.map(depth)));
  for (const text of ["> ".repeat(5000) + "a", "- ".repeat(5000) + "a", `${"*".repeat(4000)}a${"*".repeat(4000)}`,
    `${"*a **b ".repeat(2000)}${"**".repeat(2000)}`]) {
    assert.ok(Math.max(...parse(text).map(depth)) < 64);
  }
});

// ---- highlighting ----

const colours = [
  ["rust", 'fn main() { let x: u8 = 0xff_u8; println!("a \\" b"); } // end', { keyword: ["fn", "let"], number: ["0xff_u8"],
    string: ['"a \\" b"'], comment: ["// end"], call: ["main", "println"] }],
  ["rs", "let c = 'x'; let s = r#\"a\"b\"#; fn f<'a>() {}", { string: ["'x'", 'r#"a"b"#'] }],
  ["python", "def f():\n    '''doc\n    string'''\n    return f'{x}' # note", { keyword: ["def", "return"],
    string: ["'''doc\n    string'''", "f'{x}'"], comment: ["# note"] }],
  ["js", "const a = `x ${y}`; /* b\n */ return 1.5e3;", { keyword: ["const", "return"], string: ["`x ${y}`"],
    comment: ["/* b\n */"], number: ["1.5e3"] }],
  ["bash", 'if [ -f "$x" ]; then echo ${HOME} # yes\nfi', { keyword: ["if", "then", "fi"], comment: ["# yes"],
    string: ['"$x"', "${HOME}"] }],
  ["json", '{"a": [1, true, null]}', { string: ['"a"'], number: ["1"], keyword: ["true", "null"] }],
];
for (const [language, text, expected] of colours) {
  test(`colours of ${language}`, () => {
    const pieces = highlight(text, language);
    assert.equal(pieces.map(([, piece]) => piece).join(""), text);
    for (const [kind, wanted] of Object.entries(expected)) {
      const found = pieces.filter(([of]) => of === kind).map(([, piece]) => piece);
      for (const piece of wanted) assert.ok(found.includes(piece), `${kind} ${piece} in ${JSON.stringify(pieces)}`);
    }
  });
}

test("colours lose no letter and take no time, whatever the code", { timeout: 60_000 }, () => {
  const next = generator(3);
  const shards = ['"', "'", "`", "\\", "/*", "*/", "//", "#", 'r#"', '"""', "1", "1_", "a", "e", ".", "$", "${", "\n", " ", "ü", "😀"];
  for (const language of ["rust", "python", "js", "bash", "json", "", "constructor", "__proto__"]) {
    for (let round = 0; round < 300; round++) {
      const text = Array.from({ length: next(80) }, () => shards[next(shards.length)]).join("");
      assert.equal(highlight(text, language).map(([, piece]) => piece).join(""), text);
    }
    for (const shard of [...shards, "1a", "1_a", "'\\", 'r########"']) highlight(shard.repeat(99_000 / shard.length), language);
  }
});
