// Where the reader writes, with the files that go along.

import { $, announce, h } from "./dom.js";

export class Composer {
  constructor(app) {
    this.app = app;
    this.files = [];
    this.area = $("message");
    this.area.addEventListener("input", () => this.fit());
    this.area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.submit();
      }
    });
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    $("attach").addEventListener("click", () => $("files").click());
    $("files").addEventListener("change", async () => {
      await this.attach([...$("files").files]);
      $("files").value = "";
    });
    this.area.addEventListener("paste", (event) => {
      if (event.clipboardData?.files.length) {
        event.preventDefault();
        this.attach([...event.clipboardData.files]);
      }
    });
    this.dropping();
  }

  dropping() {
    const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
    window.addEventListener("dragover", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      $("drop").hidden = false;
    });
    window.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) $("drop").hidden = true;
    });
    window.addEventListener("drop", (event) => {
      $("drop").hidden = true;
      if (!carriesFiles(event)) return;
      event.preventDefault();
      this.attach([...event.dataTransfer.files]);
    });
  }

  focus = () => this.area.focus();

  /** As tall as what is written, up to a third of the window. */
  fit() {
    this.area.style.height = "auto";
    this.area.style.height = `${Math.min(this.area.scrollHeight, window.innerHeight / 3)}px`;
  }

  write(text) {
    this.area.value = text;
    this.fit();
    this.focus();
  }

  /** Takes files of text that fit; says why others do not. */
  async attach(files) {
    const { limits } = this.app;
    for (const file of files) {
      const taken = this.files.reduce((sum, other) => sum + other.size, 0);
      const refuse = (why) => this.app.setBanner(`“${file.name}” was not attached: ${why}`, { kind: "error" });
      if (this.files.length >= limits.attachments) {
        refuse(`a message carries ${limits.attachments} files at most.`);
        return;
      }
      if (taken + file.size > limits.message_bytes * 0.9) {
        refuse(`it has ${size(file.size)}, and a message with its files may have ${size(limits.message_bytes)}. Attach the part that matters.`);
        continue;
      }
      let text;
      try {
        text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      } catch {
        text = "\u0000";
      }
      if (text.includes("\u0000")) {
        refuse("it is not a text in UTF-8; models read text only.");
        continue;
      }
      const name = file.name.replace(/[/\\\n\r`]/g, "_").slice(-100);
      this.files.push({ name, text, size: file.size });
      announce(`${name} is attached.`);
    }
    this.chips();
  }

  chips() {
    $("chips").hidden = this.files.length === 0;
    const chips = this.files.map((file, index) => h("li", { class: "chip" }, `${file.name} `, h("span", { class: "hint" }, size(file.size)),
      h("button", { type: "button", class: "quiet icon", "aria-label": `Remove ${file.name}`, onclick: () => {
        this.files.splice(index, 1);
        this.chips();
        this.focus();
      } }, "✕")));
    $("chips").replaceChildren(...chips);
  }

  async submit() {
    const text = this.area.value;
    const files = this.files;
    const { app } = this;
    if ((text.trim() === "" && files.length === 0) || app.live.has(app.conversation.id) || this.sending) return;
    this.sending = true;
    this.area.value = "";
    this.files = [];
    this.chips();
    this.fit();
    const answered = app.send(text, files.map(({ name, text: content }) => ({ name, text: content })));
    this.sending = false;
    // What the service did not take comes back, unless something new was written meanwhile.
    if (!(await answered) && this.area.value === "" && this.files.length === 0) {
      this.files = files;
      this.chips();
      this.write(text);
    }
  }

  /** Send or stop, as it fits. */
  refresh() {
    const busy = this.app.live.has(this.app.conversation.id);
    const focused = document.activeElement === $("send") || document.activeElement === $("stop");
    $("send").hidden = busy;
    $("stop").hidden = !busy;
    if (focused) (busy ? $("stop") : this.area).focus();
  }
}

export function size(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  return bytes < 1 << 20 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}
