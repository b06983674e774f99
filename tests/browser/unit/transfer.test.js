// Files of conversations, without a browser: large ones in parts, foreign ones with care.

import assert from "node:assert/strict";
import { test } from "node:test";

import { conversationsIn, fileOf, parts } from "../../../crates/server/web/transfer.js";

const conversation = (title, count = 1) => ({
  title, created: 1, updated: 2, model: "m", settings: {}, active: count - 1,
  messages: Array.from({ length: count }, (_, id) => ({ id, parent: id > 0 ? id - 1 : undefined, role: id % 2 ? "assistant" : "user",
    text: `“${title}”, ${id},\n]}`, created: 1 })),
});

async function inParts(file, bytes) {
  const found = [];
  for await (const part of parts(file, bytes)) {
    assert.ok(part.size <= bytes, `${part.size} of ${bytes}`);
    found.push(JSON.parse(await part.text()));
  }
  return found;
}

test("a large file goes in parts that hold every conversation once", async () => {
  const all = Array.from({ length: 40 }, (_, index) => conversation(`number ${index}`, 1 + (index % 7)));
  const file = fileOf(all);
  const whole = JSON.parse(await file.text());
  for (let bytes = 1000; bytes <= file.size + 1; bytes += 97) {
    const found = await inParts(file, bytes);
    assert.ok(found.every(({ format, version }) => format === "hublab-conversations" && version === 1));
    assert.deepEqual(found.flatMap(({ conversations }) => conversations), whole.conversations, `${bytes} bytes`);
    if (file.size <= bytes) assert.equal(found.length, 1);
  }
});

test("what cannot be divided is refused with the limit", async () => {
  const pretty = new Blob([JSON.stringify(JSON.parse(await fileOf([conversation("a"), conversation("b")]).text()), null, 2)]);
  await assert.rejects(inParts(pretty, 200), /200 bytes/);
  await assert.rejects(inParts(fileOf([conversation("a", 50)]), 500), /500 bytes/);
});

test("a file comes back as it went out", async () => {
  const all = [conversation("one", 3), { ...conversation("two"), settings: { temperature: 0.7 } }];
  const back = await conversationsIn(fileOf(all));
  assert.equal(await fileOf(await conversationsIn(fileOf(back))).text(), await fileOf(back).text());
  assert.deepEqual(back.map(({ title, updated, active }) => [title, updated, active]), [["one", 2, 2], ["two", 2, 0]]);
  assert.deepEqual(back[0].messages.map(({ text }) => text), all[0].messages.map(({ text }) => text));
});

test("a broken file is refused, and nothing odd in one reaches the page", async () => {
  const file = (conversations) => new Blob([JSON.stringify({ format: "hublab-conversations", version: 1, conversations })]);
  const message = { id: 0, role: "user", text: "a" };
  for (const bad of [new Blob(["nonsense"]), new Blob(["null"]), new Blob(['{"format":"x"}']), file("x"), file([null]), file([{}]),
    file([{ messages: [{ ...message, text: 1 }] }]), file([{ messages: [{ ...message, role: "system" }] }]),
    file([{ messages: [{ ...message, id: "0" }] }]), file([{ messages: [{ ...message, parent: {} }] }])]) {
    await assert.rejects(conversationsIn(bad), /not a file of exported conversations/);
  }
  const odd = { ...message, attachments: "x", experts: [null, { weight: "x" }], notes: 7, usage: 5, model: {}, reasoning: [], finish: "x" };
  const [{ title, settings, active, messages }] = await conversationsIn(file([{ title: 5, settings: [], active: 9, messages: [odd] }]));
  assert.deepEqual([title, settings, active], ["", {}, 0]);
  assert.deepEqual(messages, [{ id: 0, parent: undefined, role: "user", text: "a", created: 0, reasoning: "", model: "", finish: undefined,
    attachments: [], usage: undefined, experts: [{ name: "", weight: 0, reason: "" }, { name: "", weight: 0, reason: "" }], notes: [] }]);
});
