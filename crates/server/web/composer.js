// Where the reader writes, with the files that go along.

import { $, announce, h, isTouch, sends } from "./dom.js";

export class Composer {
  constructor(app) {
    this.app = app;
    this.files = [];
    this.area = $("message");
    this.area.addEventListener("input", () => this.fit());
    this.area.addEventListener("keydown", (event) => {
      if (sends(event)) {
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
      // Programs that copy a table or a page put a picture of it beside the text: the text is meant.
      if (event.clipboardData?.files.length && !event.clipboardData.types.includes("text/plain")) {
        event.preventDefault();
        this.attach([...event.clipboardData.files]);
      }
    });
    this.dropping();
    if (isTouch()) $("keys").textContent = "Enter begins a line, the button sends.";
  }

  dropping() {
    const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
    const isFree = () => !document.querySelector("dialog[open]");
    window.addEventListener("dragover", (event) => {
      if (!carriesFiles(event)) return;
      // Also where it is not taken: the browser would leave the page for the file.
      event.preventDefault();
      $("drop").hidden = !isFree();
    });
    window.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) $("drop").hidden = true;
    });
    window.addEventListener("drop", (event) => {
      $("drop").hidden = true;
      if (!carriesFiles(event)) return;
      event.preventDefault();
      if (isFree()) this.attach([...event.dataTransfer.files]);
    });
  }

  /** Puts the keyboard here; not where that would cover half of the screen. */
  focus() {
    if (!isTouch()) this.area.focus();
  }

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
      const name = [...file.name.replace(/[/\\\n\r`]/g, "_")].slice(-100).join("") || "file";
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
    if ((text.trim() === "" && files.length === 0) || app.writing) return;
    this.area.value = "";
    this.files = [];
    this.chips();
    this.fit();
    const taken = await app.send(text, files.map(({ name, text: content }) => ({ name, text: content })));
    if (taken) return;
    // What the service did not take comes back, before what was written meanwhile.
    this.files = [...files, ...this.files];
    this.chips();
    this.write([text, this.area.value].filter((part) => part !== "").join("\n\n"));
  }

  /** Send or stop, as it fits. */
  refresh() {
    const busy = Boolean(this.app.writing);
    const focused = document.activeElement === $("send") || document.activeElement === $("stop");
    $("send").hidden = busy;
    $("stop").hidden = !busy;
    if (focused && busy) $("stop").focus();
    else if (focused) this.focus();
  }
}

export function size(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  return bytes < 1 << 20 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}
