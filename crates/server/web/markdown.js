// Markdown -> a tree of plain objects -> DOM nodes.
//
// What a model writes never passes through an HTML parser: elements are made one by one from a fixed list of tags, HTML in
// the text stays text, pictures are shown as links, and a link goes to http, https or mailto or nowhere. Half-finished
// Markdown gives a sensible tree at every moment, and the work is linear in the text.
//
// A node is a string or { tag, children, href?, align?, start?, language? }.

import { highlight } from "./highlight.js";

/** Quotes and lists inside each other; deeper ones stay text. */
const DEPTH_MAX = 12;
/** Characters of a link's target. */
const TARGET_MAX = 1024;
/** Columns of a table; with more, rows of one character would make a huge page. */
const COLUMNS_MAX = 64;
/** Emphasis and links inside each other. */
const INLINE_DEPTH_MAX = 16;

/** The tree of a text: an array of block nodes. */
export function parse(text) {
  return parseBlocks(text.replace(/\r\n?/g, "\n").split("\n"), 0).map((block) => block.node);
}

/** The tree with the line in which each block begins; for rendering while the text still grows. */
export function parseWithLines(lines) {
  return parseBlocks(lines, 0);
}

// ---- blocks ----

const TAB = 4;

/** Columns of white space before the text; below four there is no tab in it, so it counts characters, too. */
function indentOf(line) {
  let columns = 0;
  for (const character of line) {
    if (character === " ") columns++;
    else if (character === "\t") columns += TAB - (columns % TAB);
    else break;
  }
  return columns;
}

/** The line without its first columns, as far as those are white space. */
function dedent(line, columns) {
  let at = 0;
  let passed = 0;
  while (passed < columns && (line[at] === " " || line[at] === "\t")) {
    passed += line[at] === "\t" ? TAB - (passed % TAB) : 1;
    at++;
  }
  return " ".repeat(Math.max(0, passed - columns)) + line.slice(at);
}

const isBlank = (line) => line.trim() === "";

function fenceOf(line) {
  const indent = indentOf(line);
  const mark = line[indent];
  if (indent > 3 || (mark !== "`" && mark !== "~")) return null;
  let end = indent;
  while (line[end] === mark) end++;
  const info = line.slice(end).trim();
  if (end - indent < 3 || (mark === "`" && info.includes("`"))) return null;
  return { indent, mark, length: end - indent, info };
}

function headingOf(line) {
  const indent = indentOf(line);
  let end = indent;
  while (line[end] === "#") end++;
  const level = end - indent;
  if (indent > 3 || level < 1 || level > 6 || (end < line.length && line[end] !== " ")) return null;
  let text = line.slice(end).trim();
  let closing = text.length;
  while (closing > 0 && text[closing - 1] === "#") closing--;
  if (closing === 0 || text[closing - 1] === " ") text = text.slice(0, closing).trim();
  return { level, text };
}

function isRule(line) {
  if (indentOf(line) > 3) return false;
  const marks = line.replaceAll(" ", "");
  return marks.length >= 3 && "-*_".includes(marks[0]) && marks === marks[0].repeat(marks.length);
}

function itemOf(line) {
  const found = /^( {0,3})(?:([-*+])|(\d{1,9})([.)]))( +|$)/.exec(line);
  if (!found) return null;
  const [whole, , bullet, number, point, gap] = found;
  // More than four blanks are one blank and then an indented text.
  const content = gap.length > 4 || gap === "" ? whole.length - gap.length + 1 : whole.length;
  return { ordered: !bullet, kind: bullet ?? point, start: number ? Number(number) : 1, content };
}

const isQuote = (line) => indentOf(line) < 4 && line.trimStart().startsWith(">");

const beginsBlock = (line) => !!(fenceOf(line) || headingOf(line) || isRule(line) || isQuote(line) || itemOf(line));

/** Cells of a table's row; a pipe after a backslash, or in code, does not part them. */
function cellsOf(line) {
  let row = line.trim();
  if (row.startsWith("|")) row = row.slice(1);
  const cells = [];
  let cell = "";
  let code = false;
  for (let at = 0; at < row.length; at++) {
    const character = row[at];
    if (character === "\\" && row[at + 1] === "|") {
      cell += "|";
      at++;
    } else if (character === "|" && !code) {
      cells.push(cell.trim());
      cell = "";
    } else {
      if (character === "`") code = !code;
      cell += character;
    }
  }
  if (cell.trim() !== "" || cells.length === 0) cells.push(cell.trim());
  return cells;
}

function alignmentsOf(line) {
  if (line === undefined || !line.includes("-") || !/^[-:| ]+$/.test(line)) return null;
  const cells = cellsOf(line);
  if (!cells.every((cell) => /^:?-+:?$/.test(cell))) return null;
  return cells.map((cell) => {
    if (cell.endsWith(":")) return cell.startsWith(":") ? "center" : "right";
    return "left";
  });
}

function parseBlocks(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at++;
      continue;
    }
    const line = at;
    const [node, next] = parseBlock(lines, at, depth);
    blocks.push({ node, line });
    at = next;
  }
  return blocks;
}

function parseBlock(lines, at, depth) {
  const line = lines[at];
  const fence = fenceOf(line);
  if (fence) return parseFence(lines, at, fence);
  const heading = headingOf(line);
  if (heading) return [{ tag: `h${heading.level}`, children: parseInline(heading.text) }, at + 1];
  if (isRule(line)) return [{ tag: "hr", children: [] }, at + 1];
  if (depth < DEPTH_MAX) {
    if (isQuote(line)) return parseQuote(lines, at, depth);
    const item = itemOf(line);
    if (item) return parseList(lines, at, item, depth);
  }
  if (line.includes("|")) {
    const align = alignmentsOf(lines[at + 1]);
    if (align && align.length <= COLUMNS_MAX && align.length === cellsOf(line).length) return parseTable(lines, at, align);
  }
  return parseParagraph(lines, at, depth);
}

function parseFence(lines, at, fence) {
  const content = [];
  let next = at + 1;
  for (; next < lines.length; next++) {
    const end = fenceOf(lines[next]);
    if (end && end.mark === fence.mark && end.length >= fence.length && end.info === "") break;
    content.push(dedent(lines[next], fence.indent));
  }
  const language = fence.info.split(/[\s{,]/, 1)[0].toLowerCase().slice(0, 32);
  return [{ tag: "pre", language, children: [content.join("\n")] }, next + 1];
}

function parseQuote(lines, at, depth) {
  const inside = [];
  let next = at;
  for (; next < lines.length && isQuote(lines[next]); next++) {
    const text = lines[next].trimStart().slice(1);
    inside.push(text.startsWith(" ") ? text.slice(1) : text);
  }
  const children = parseBlocks(inside, depth + 1).map((block) => block.node);
  return [{ tag: "blockquote", children }, next];
}

function parseList(lines, at, first, depth) {
  const items = [];
  let loose = false;
  let next = at;
  while (next < lines.length) {
    const item = itemOf(lines[next]);
    if (!item || item.ordered !== first.ordered || item.kind !== first.kind || isRule(lines[next])) break;
    const inside = [lines[next].slice(item.content)];
    next++;
    let blanks = 0;
    for (; next < lines.length; next++) {
      const line = lines[next];
      if (isBlank(line)) {
        blanks++;
        continue;
      }
      const belongs = indentOf(line) >= Math.min(item.content, 4);
      // A line that follows without a gap and begins nothing goes on with the paragraph.
      const continues = blanks === 0 && !beginsBlock(line) && !fenceOf(inside.at(-1));
      if (!belongs && !continues) break;
      for (; blanks > 0; blanks--) inside.push("");
      inside.push(belongs ? dedent(line, item.content) : line);
    }
    items.push(inside);
    if (blanks > 0 && next < lines.length && itemOf(lines[next])) loose = true;
  }
  const children = items.map((inside) => ({ tag: "li", children: itemChildren(inside, loose, depth) }));
  const node = { tag: first.ordered ? "ol" : "ul", children };
  if (first.ordered && first.start !== 1) node.start = first.start;
  return [node, next];
}

function itemChildren(inside, loose, depth) {
  const task = /^\[([ xX])\] /.exec(inside[0]);
  if (task) inside[0] = (task[1] === " " ? "☐ " : "☑ ") + inside[0].slice(4);
  const blocks = parseBlocks(inside, depth + 1).map((block) => block.node);
  if (loose) return blocks;
  return blocks.flatMap((block) => (block.tag === "p" ? block.children : [block]));
}

function parseTable(lines, at, align) {
  const row = (tag, cells) => ({
    tag: "tr",
    children: align.map((side, column) => ({ tag, align: side, children: parseInline(cells[column] ?? "") })),
  });
  const head = { tag: "thead", children: [row("th", cellsOf(lines[at]))] };
  const rows = [];
  let next = at + 2;
  for (; next < lines.length && !isBlank(lines[next]) && lines[next].includes("|"); next++) {
    rows.push(row("td", cellsOf(lines[next])));
  }
  const children = rows.length > 0 ? [head, { tag: "tbody", children: rows }] : [head];
  return [{ tag: "table", children }, next];
}

function parseParagraph(lines, at, depth) {
  const text = [lines[at].trim()];
  let next = at + 1;
  for (; next < lines.length && !isBlank(lines[next]); next++) {
    const line = lines[next];
    if (depth < DEPTH_MAX ? beginsBlock(line) : fenceOf(line) || headingOf(line) || isRule(line)) break;
    if (line.includes("|") && alignmentsOf(lines[next + 1])) break;
    text.push(line.trim());
  }
  return [{ tag: "p", children: parseInline(text.join("\n")) }, next];
}

// ---- inside a line ----

/** Breaks of a line, the only HTML that models write where Markdown has nothing: in the cell of a table. */
const BREAK = /<br ?\/?>/iy;

const PUNCTUATION = /[!-/:-@[-`{-~]/;
const SPACE = /\s/;
const WORD = /[\p{L}\p{N}_]/u;

/**
 * Text, code, emphasis, links and line breaks. Delimiters are put on a stack and joined from the inside out, as CommonMark
 * does it, so that no text is looked at more often than a fixed number of times.
 */
export function parseInline(text) {
  const out = []; // strings, nodes, and delimiters { mark, length, opens, closes }
  const brackets = []; // places in `out` where a link's text may have begun
  const codeEnds = codeRuns(text);
  let plain = "";
  const flush = () => {
    if (plain !== "") out.push(plain);
    plain = "";
  };
  let at = 0;
  while (at < text.length) {
    const character = text[at];
    if (character === "\\" && at + 1 < text.length && PUNCTUATION.test(text[at + 1])) {
      plain += text[at + 1];
      at += 2;
    } else if (character === "\n" || (character === "<" && breakAt(text, at) > 0)) {
      flush();
      out.push({ tag: "br", children: [] });
      at += character === "<" ? breakAt(text, at) : 1;
    } else if (character === "`") {
      // A run whose first backtick was escaped opens nothing.
      const run = codeEnds.get(at) ?? { length: endOfRun(text, at) - at };
      if (run.close === undefined) {
        plain += text.slice(at, at + run.length);
        at += run.length;
      } else {
        flush();
        out.push({ tag: "code", children: [codeText(text.slice(at + run.length, run.close))] });
        at = run.close + run.length;
      }
    } else if (character === "*" || character === "_" || character === "~") {
      flush();
      const end = endOfRun(text, at);
      out.push(delimiter(text, at, end));
      at = end;
    } else if (character === "[" || (character === "!" && text[at + 1] === "[")) {
      flush();
      const image = character === "!";
      if (brackets.length < 256) brackets.push({ place: out.length, image });
      out.push(image ? "![" : "[");
      at += image ? 2 : 1;
    } else if (character === "]") {
      flush();
      at = closeBracket(text, at, out, brackets);
    } else if (character === "h" && (at === 0 || !WORD.test(text[at - 1])) && /^https?:\/\//.test(text.slice(at, at + 8))) {
      const end = endOfAddress(text, at);
      const address = text.slice(at, end);
      const href = safeHref(address);
      if (href && brackets.length === 0) {
        flush();
        out.push({ tag: "a", href, children: [address] });
      } else {
        plain += address;
      }
      at = end;
    } else {
      plain += character;
      at++;
    }
  }
  flush();
  return joinEmphasis(out, 0);
}

/** Characters of the break that begins here; 0 for none. */
function breakAt(text, at) {
  BREAK.lastIndex = at;
  return BREAK.exec(text)?.[0].length ?? 0;
}

const endOfRun = (text, at) => {
  let end = at;
  while (text[end] === text[at]) end++;
  return end;
};

/** For the beginning of every run of backticks: its length, and where a run of the same length follows. */
function codeRuns(text) {
  const runs = [];
  for (let at = text.indexOf("`"); at !== -1; ) {
    const end = endOfRun(text, at);
    runs.push({ at, length: end - at, close: undefined });
    at = text.indexOf("`", end);
  }
  const next = new Map();
  for (const run of runs.toReversed()) {
    run.close = next.get(run.length);
    next.set(run.length, run.at);
  }
  return new Map(runs.map((run) => [run.at, run]));
}

function codeText(text) {
  const line = text.replaceAll("\n", " ");
  return line.startsWith(" ") && line.endsWith(" ") && line.trim() !== "" ? line.slice(1, -1) : line;
}

function delimiter(text, at, end) {
  const before = at === 0 ? " " : text[at - 1];
  const after = end === text.length ? " " : text[end];
  const beforeEmpty = SPACE.test(before);
  const afterEmpty = SPACE.test(after);
  const beforePoint = PUNCTUATION.test(before);
  const afterPoint = PUNCTUATION.test(after);
  const left = !afterEmpty && (!afterPoint || beforeEmpty || beforePoint);
  const right = !beforeEmpty && (!beforePoint || afterEmpty || afterPoint);
  const mark = text[at];
  // An underscore inside a word, as in snake_case, is no emphasis.
  const opens = mark === "_" ? left && (!right || beforePoint) : left;
  const closes = mark === "_" ? right && (!left || afterPoint) : right;
  // One tilde is "about", or stands between two numbers.
  const counts = mark !== "~" || end - at === 2;
  return { mark, length: end - at, opens: opens && counts, closes: closes && counts };
}

function closeBracket(text, at, out, brackets) {
  const open = brackets.pop();
  const target = open && text[at + 1] === "(" ? targetOf(text, at + 2) : null;
  if (!target) {
    out.push("]");
    return at + 1;
  }
  const inside = joinEmphasis(out.splice(open.place).slice(1), 1);
  const href = safeHref(target.address);
  const label = open.image ? ["[picture: "].concat(inside.length > 0 ? inside : target.address, "]") : inside;
  if (href && label.length > 0) {
    out.push({ tag: "a", href, children: withoutLinks(label) });
    // There is no link inside a link.
    if (!open.image) brackets.length = 0;
  } else {
    for (const node of label) out.push(node);
  }
  return target.end;
}

/** There is no link inside a link, however deep. */
const withoutLinks = (nodes) => nodes.flatMap((node) => {
  if (typeof node === "string") return [node];
  const children = withoutLinks(node.children);
  return node.tag === "a" ? children : [{ ...node, children }];
});

/** What stands in the parentheses after a link's text, up to a limit; a title is read and not shown. */
function targetOf(text, from) {
  const until = Math.min(text.length, from + TARGET_MAX);
  let open = 0;
  for (let at = from; at < until; at++) {
    const character = text[at];
    if (character === "\n") return null;
    if (character === "(") open++;
    if (character === ")") {
      if (open === 0) {
        const inside = text.slice(from, at).trim();
        const address = /^<([^<>]*)>/.exec(inside)?.[1] ?? inside.split(/\s/, 1)[0];
        return { address, end: at + 1 };
      }
      open--;
    }
  }
  return null;
}

function endOfAddress(text, at) {
  const until = Math.min(text.length, at + TARGET_MAX);
  let end = at;
  let open = 0;
  for (; end < until && !SPACE.test(text[end]) && !'<>"`*'.includes(text[end]); end++) {
    if (text[end] === "(") open++;
    if (text[end] === ")" && --open < 0) break;
  }
  while (end > at && ".,;:!?'_~]".includes(text[end - 1])) end--;
  return end;
}

/** The address if following it is harmless, else null. */
export function safeHref(address) {
  if (address.length > TARGET_MAX) return null;
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

const TAGS = { "*": ["em", "strong"], _: ["em", "strong"], "~": [null, "del"] };

/** Joins delimiters to emphasis; what finds no partner is text. */
function joinEmphasis(pieces, depth) {
  const out = [];
  const openers = []; // places in `out`, the latest last
  for (const piece of pieces) {
    if (!piece.mark) {
      out.push(piece);
      continue;
    }
    let left = { ...piece };
    while (left.closes && left.length > 0) {
      const found = partner(out, openers, left);
      if (found < 0) break;
      const place = openers[found];
      const opener = out[place];
      const used = opener.length >= 2 && left.length >= 2 ? 2 : 1;
      const children = out.splice(place + 1).map(asText);
      openers.length = found + 1;
      opener.length -= used;
      left.length -= used;
      if (opener.length === 0) {
        out.pop();
        openers.pop();
      }
      const level = 1 + children.reduce((deepest, child) => Math.max(deepest, child.level ?? 0), 0);
      const tag = TAGS[piece.mark][used - 1];
      // Deeper than that nobody means it, and the tree must not be a trap.
      if (level + depth <= INLINE_DEPTH_MAX) out.push({ tag, level, children });
      else for (const child of children) out.push(child);
    }
    if (left.length > 0) {
      if (left.opens && openers.length < 256) openers.push(out.length);
      out.push(left);
    }
  }
  return mergeText(out.map(asText));
}

/** The latest opener that this delimiter may close. */
function partner(out, openers, closer) {
  // A few are enough; looking at all for every closer would be quadratic.
  for (let index = openers.length - 1; index >= Math.max(0, openers.length - 8); index--) {
    const opener = out[openers[index]];
    if (opener.mark !== closer.mark) continue;
    return index;
  }
  return -1;
}

const asText = (piece) => (piece.mark ? piece.mark.repeat(piece.length) : piece);

function mergeText(nodes) {
  const out = [];
  for (const node of nodes) {
    if (typeof node === "string" && typeof out.at(-1) === "string") out[out.length - 1] += node;
    else out.push(node);
  }
  return out;
}

// ---- DOM ----

/** Headings of an answer stand below those of the page. */
const ELEMENTS = {
  p: "p", h1: "h3", h2: "h4", h3: "h5", h4: "h6", h5: "h6", h6: "h6", hr: "hr", blockquote: "blockquote", ul: "ul", ol: "ol",
  li: "li", table: "table", thead: "thead", tbody: "tbody", tr: "tr", th: "th", td: "td", em: "em", strong: "strong",
  del: "del", code: "code", br: "br", a: "a",
};

/** A DOM node for a node of the tree. `copyButton(text)` makes the button above a block of code. */
export function toDom(node, document, copyButton) {
  if (typeof node === "string") return document.createTextNode(node);
  if (node.tag === "pre") return codeBlock(node, document, copyButton);
  const element = document.createElement(ELEMENTS[node.tag]);
  if (node.tag === "a") {
    element.setAttribute("href", node.href);
    element.setAttribute("rel", "noopener noreferrer nofollow");
    element.setAttribute("target", "_blank");
  }
  if (node.align && node.align !== "left") element.className = `align-${node.align}`;
  if (node.start !== undefined) element.setAttribute("start", String(node.start));
  for (const child of node.children) element.append(toDom(child, document, copyButton));
  if (node.tag !== "table") return element;
  // A wide table scrolls by itself, with the keyboard too, and the page does not.
  const frame = document.createElement("div");
  frame.className = "scroll";
  frame.setAttribute("tabindex", "0");
  frame.setAttribute("role", "group");
  frame.setAttribute("aria-label", "Table");
  frame.append(element);
  return frame;
}

function codeBlock(node, document, copyButton) {
  const text = node.children[0];
  const frame = document.createElement("div");
  frame.className = "code";
  const head = document.createElement("div");
  head.className = "code-head";
  const name = document.createElement("span");
  name.textContent = node.language || "text";
  head.append(name);
  if (copyButton) head.append(copyButton(text));
  const pre = document.createElement("pre");
  pre.setAttribute("dir", "ltr");
  pre.setAttribute("tabindex", "0");
  pre.setAttribute("aria-label", `Code, ${node.language || "text"}`);
  pre.setAttribute("role", "group");
  const code = document.createElement("code");
  for (const [kind, piece] of highlight(text, node.language)) {
    if (kind === "") {
      code.append(document.createTextNode(piece));
    } else {
      const span = document.createElement("span");
      span.className = `hl-${kind}`;
      span.textContent = piece;
      code.append(span);
    }
  }
  pre.append(code);
  frame.append(head, pre);
  return frame;
}

/**
 * Shows a text that grows. Blocks that are followed by two others are finished and not touched again, so the work for
 * each piece is that of the last blocks only. What a later line would change in them is not seen: a whole answer is shown
 * anew.
 */
export class MarkdownView {
  constructor(element, copyButton) {
    this.element = element;
    this.copyButton = copyButton;
    this.lines = [""];
    this.settled = 0; // lines whose nodes stay
    this.tail = []; // the nodes after them
  }

  push(text) {
    const [first, ...rest] = text.split("\n");
    this.lines[this.lines.length - 1] += first;
    for (const line of rest) this.lines.push(line);
  }

  /** Shows what was pushed. */
  render() {
    for (const node of this.tail) node.remove();
    const blocks = parseWithLines(this.lines.slice(this.settled));
    const nodes = blocks.map((block) => toDom(block.node, this.element.ownerDocument, this.copyButton));
    for (const node of nodes) this.element.append(node);
    const open = Math.max(0, blocks.length - 2);
    if (open > 0) this.settled += blocks[open].line;
    this.tail = nodes.slice(open);
  }
}
