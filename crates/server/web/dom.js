// Elements without a parser: what is shown is made node by node, so text can never become markup.

/** An element with attributes (`on…` are listeners, `class` and all else attributes) and children. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

/** The element of the page with this id. */
export const $ = (id) => document.getElementById(id);

/** Tells a screen reader, once and when it has time; also what it was told last. */
export function announce(text) {
  $("status").replaceChildren(h("p", {}, text));
}

/** Whether there is a keyboard on the glass only: it covers half of it, and has no Shift + Enter. */
export const isTouch = () => matchMedia("(hover: none) and (pointer: coarse)").matches;

/** Whether a key says that what was written is to be sent. Not where it chooses what an input method offers. */
export const sends = (event) =>
  event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229 && !isTouch();

/** Puts text on the clipboard, also where the browser's interface for it is kept for encrypted pages. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const focused = document.activeElement;
    const area = h("textarea", { class: "hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
  }
}

/** A button that copies what `text()` gives. */
export function copyButton(text, name = "Copy", label = name) {
  const button = h("button", { type: "button", class: "quiet small", "aria-label": label }, name);
  button.addEventListener("click", async () => {
    const done = await copy(text());
    button.textContent = done ? "Copied" : "Not copied";
    announce(done ? "Copied" : "The browser did not allow copying.");
    setTimeout(() => (button.textContent = name), 1500);
  });
  return button;
}

/** Offers a blob as a file. */
export function save(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/**
 * A dialog with fields; gives their values as an object, or null when it was left. A field is
 * { name, label, value, type?, hint?, min?, max?, step?, rows? }.
 */
export function ask({ title, text = [], fields = [], confirm = "Save", danger = false }) {
  return new Promise((resolve) => {
    const inputs = fields.map((field) => inputFor(field));
    const dialog = h(
      "dialog",
      { "aria-labelledby": "dialog-title" },
      h(
        "form",
        { method: "dialog", class: "dialog" },
        h("h2", { id: "dialog-title" }, title),
        [text].flat().map((line) => h("p", {}, line)),
        inputs.length > 0 && h("div", { class: "fields" }, inputs.map(({ row }) => row)),
        h(
          "div",
          { class: "dialog-foot" },
          h("button", { type: "button", class: "plain", onclick: () => dialog.close("cancel") }, "Cancel"),
          h("button", { type: "submit", class: danger ? "primary danger" : "primary", value: "ok" }, confirm),
        ),
      ),
    );
    const before = document.activeElement;
    dialog.addEventListener("close", () => {
      const values = Object.fromEntries(inputs.map(({ name, input }) => [name, input.value]));
      const result = dialog.returnValue === "ok" ? values : null;
      dialog.remove();
      before?.focus?.();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
    (inputs[0]?.input ?? dialog.querySelector(danger ? ".plain" : ".primary")).focus();
    inputs[0]?.input.select?.();
  });
}

function inputFor(field) {
  const { name, label, value = "", hint, rows, type = "text", min, max, step, placeholder, maxlength } = field;
  const id = `field-${name}`;
  const attributes = { id, name, placeholder, maxlength, autocomplete: "off", "aria-describedby": hint ? `${id}-hint` : undefined };
  const input = rows ? h("textarea", { ...attributes, rows }) : h("input", { ...attributes, type, min, max, step });
  input.value = value ?? "";
  const told = hint && h("p", { id: `${id}-hint`, class: "hint" }, hint);
  const row = h("div", { class: rows || type !== "number" ? "field whole" : "field" }, h("label", { for: id }, label), input, told);
  return { name, input, row };
}
