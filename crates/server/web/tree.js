// A conversation is a tree of messages; what is read is one way from its root to a leaf.

/** The messages from the beginning to `leaf`. */
export function pathTo(messages, leaf) {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const path = [];
  const seen = new Set();
  for (let message = byId.get(leaf); message && !seen.has(message.id); message = byId.get(message.parent)) {
    seen.add(message.id);
    path.push(message);
  }
  return path.reverse();
}

/** The ids of all messages that follow the same one, in the order in which they were written. */
export function siblings(messages, message) {
  const parent = message.parent ?? null;
  return messages.filter((other) => (other.parent ?? null) === parent).map((other) => other.id).sort((a, b) => a - b);
}

/** The end of the latest branch below a message. */
export function leafBelow(messages, id) {
  const latest = new Map();
  for (const message of messages) {
    const parent = message.parent ?? null;
    if (!latest.has(parent) || latest.get(parent) < message.id) latest.set(parent, message.id);
  }
  let leaf = id;
  while (latest.has(leaf) && latest.get(leaf) > leaf) leaf = latest.get(leaf);
  return leaf;
}
