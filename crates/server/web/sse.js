// Server-sent events, as they come over the wire in pieces of any size.

/** Characters of one event; more is a broken service. */
const EVENT_MAX = 8 << 20;

/** Takes text, gives events { event, data }. */
export class EventParser {
  constructor() {
    this.pending = "";
    this.afterReturn = false;
    this.reset();
  }

  reset() {
    this.event = "";
    this.data = [];
    this.length = 0;
  }

  /** The events that this piece completes. */
  push(text) {
    // A line feed that belongs to the carriage return of the piece before is no line of its own.
    if (this.afterReturn && text.startsWith("\n")) text = text.slice(1);
    if (text !== "") this.afterReturn = text.endsWith("\r");
    const lines = text.split(/\r\n|\r|\n/);
    lines[0] = this.pending + lines[0];
    this.pending = lines.pop();
    if (this.pending.length > EVENT_MAX) throw new Error("The service sent a line without an end.");
    const events = [];
    for (const line of lines) {
      if (line === "") {
        if (this.data.length > 0) events.push({ event: this.event || "message", data: this.data.join("\n") });
        this.reset();
        continue;
      }
      this.field(line);
    }
    return events;
  }

  field(line) {
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment keeps the connection alive
    const name = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (name === "event") this.event = value;
    if (name !== "data") return;
    this.length += value.length;
    if (this.length > EVENT_MAX) throw new Error("The service sent an event without an end.");
    this.data.push(value);
  }
}

/** The events of a response, as they come. */
export async function* events(response) {
  const parser = new EventParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.push(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
