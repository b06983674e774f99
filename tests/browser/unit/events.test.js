// Server-sent events and the tree of messages, without a browser.

import assert from "node:assert/strict";
import { test } from "node:test";

import { EventParser } from "../../../crates/server/web/sse.js";
import { leafBelow, pathTo, siblings } from "../../../crates/server/web/tree.js";

const STREAM = ': ping\n\nevent: start\ndata: {"a":1}\n\ndata: one\ndata:two\r\n\r\nid: 7\nevent: done\rdata:\r\r';
const EXPECTED = [
  { event: "start", data: '{"a":1}' },
  { event: "message", data: "one\ntwo" },
  { event: "done", data: "" },
];

test("events come out the same however the stream is cut", () => {
  for (let size = 1; size <= STREAM.length; size++) {
    const parser = new EventParser();
    const events = [];
    for (let at = 0; at < STREAM.length; at += size) events.push(...parser.push(STREAM.slice(at, at + size)));
    assert.deepEqual(events, EXPECTED, `pieces of ${size}`);
  }
});

test("an event that never ends is an error, not a full memory", () => {
  const parser = new EventParser();
  assert.throws(() => {
    for (let piece = 0; piece < 20; piece++) parser.push("x".repeat(1 << 20));
  });
  const lines = new EventParser();
  assert.throws(() => {
    for (let piece = 0; piece < 20; piece++) lines.push(`data: ${"x".repeat(1 << 20)}\n`);
  });
});

test("random bytes give events or nothing", () => {
  let state = 5;
  const next = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 28;
  const shards = ["data", ":", " ", "\n", "\r", "\n\n", "event", "x", "{", "id", "\u0000", "ü", "\r\n", "retry", "::", "data: y\n\n"];
  for (let round = 0; round < 500; round++) {
    const parser = new EventParser();
    for (let piece = 0; piece < 20; piece++) {
      for (const { event, data } of parser.push(shards[next()])) assert.equal(typeof event + typeof data, "stringstring");
    }
  }
});

const MESSAGES = [
  { id: 0 }, { id: 1, parent: 0 }, { id: 2, parent: 0 }, { id: 3, parent: 1 }, { id: 4 }, { id: 5, parent: 3 },
];

test("ways through the tree", () => {
  assert.deepEqual(pathTo(MESSAGES, 5).map((message) => message.id), [0, 1, 3, 5]);
  assert.deepEqual(pathTo(MESSAGES, undefined), []);
  assert.deepEqual(siblings(MESSAGES, MESSAGES[1]), [1, 2]);
  assert.deepEqual(siblings(MESSAGES, MESSAGES[4]), [0, 4]);
  assert.equal(leafBelow(MESSAGES, 1), 5);
  assert.equal(leafBelow(MESSAGES, 0), 2);
  assert.equal(leafBelow(MESSAGES, 4), 4);
});

test("a circle in what came from elsewhere ends", () => {
  assert.equal(pathTo([{ id: 1, parent: 2 }, { id: 2, parent: 1 }], 1).length, 2);
  assert.equal(leafBelow([{ id: 1, parent: 1 }], 1), 1);
});
