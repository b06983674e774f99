// What a reader does with the page, in a real browser, against the program itself and its built-in model.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

import { Scripted } from "./scripted.js";
import { Service } from "./service.js";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PICTURES = process.env.HUBLAB_SCREENSHOTS;
const QUESTION = "What does tar do?";
const ANSWER = "An archiving utility.";

const service = new Service();
let browser;

before(async () => {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
  await service.start();
});

after(async () => {
  await browser?.close();
  await service.end();
});

/** The built-in model for far longer answers than it was trained for: they end after seconds, not at once. */
const endless = new Service();
before(async () => {
  const bytes = readFileSync(new URL("../../models/default.gguf", import.meta.url));
  const key = "llama.context_length";
  // After the key there is the type of its value.
  bytes.writeUInt32LE(16_384, bytes.indexOf(key) + key.length + 4);
  const file = join(endless.home, "long.gguf");
  writeFileSync(file, bytes);
  endless.flags = [file];
  await endless.start();
});
after(() => endless.end());

/** A test with a browser window of its own. Anything that the page throws or the policy forbids fails it. */
function check(name, body, { at = service, before: prepare, ...options } = {}) {
  test(name, { timeout: 120_000 }, async () => {
    prepare?.();
    const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, acceptDownloads: true, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    const wrong = [];
    page.on("pageerror", (error) => wrong.push(error.message));
    page.on("console", (message) => {
      if (message.type() === "error" && !/Failed to load resource/.test(message.text())) wrong.push(message.text());
    });
    page.on("request", (request) => {
      const { protocol, origin } = new URL(request.url());
      if (protocol !== "blob:" && `${origin}/` !== at.url) wrong.push(`asked ${request.url()}`);
    });
    try {
      await page.goto(at.url);
      await body(page, context);
      assert.deepEqual(wrong, []);
    } catch (error) {
      if (PICTURES) await picture(page, `failed-${name.replace(/\W+/g, "-")}`);
      throw error;
    } finally {
      await context.close();
    }
  });
}

async function picture(page, name) {
  if (!PICTURES) return;
  mkdirSync(PICTURES, { recursive: true });
  await page.screenshot({ path: join(PICTURES, `${name}.png`) });
}

const ready = (page) => page.waitForSelector("html[data-ready=yes]");
const answers = (page) => page.locator(".message.assistant:not([aria-busy])");
const questions = (page) => page.locator(".message.user");

async function ask(page, text = QUESTION) {
  const count = await answers(page).count();
  await page.fill("#message", text);
  await page.press("#message", "Enter");
  await answers(page).nth(count).waitFor();
}

/** Asks, and gives when the first words of the answer are there. */
async function streaming(page) {
  await page.fill("#message", QUESTION);
  await page.press("#message", "Enter");
  await page.locator(".message.assistant:last-child .body:not(:empty)").waitFor();
}

/** Words without end, so that there is time to look while they come. */
async function slowly(page) {
  await page.click("#settings");
  await page.fill("#field-temperature", "5");
  await page.fill("#field-top_k", "0");
  await page.fill("#field-top_p", "1");
  await page.click("dialog .primary");
  await page.waitForSelector("dialog", { state: "detached" });
}

/** Waits until this stands where one writes. */
const written = (page, text) => page.waitForFunction((wanted) => document.querySelector("#message").value === wanted, text);

async function accessible(page, where) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  const told = serious.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" | ").slice(0, 400)}`);
  assert.deepEqual(told, [], where);
}

const noSideways = async (page) => {
  const [wide, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(wide <= window, `${wide} wide in a window of ${window}`);
};

check("an empty page says what it is, and what its model is", async (page) => {
  await ready(page);
  await page.getByText("five million parameters").waitFor();
  await page.getByText("not an assistant").waitFor();
  await page.getByRole("button", { name: QUESTION }).click();
  assert.equal(await page.inputValue("#message"), QUESTION);
  await accessible(page, "empty");
  await picture(page, "empty");
});

check("a question is sent, its answer comes, and both are there after reloading", async (page) => {
  await ready(page);
  await ask(page);
  assert.match(await answers(page).first().innerText(), new RegExp(ANSWER));
  assert.match(await answers(page).first().locator(".numbers").innerText(), /\d+ tokens/);
  assert.match(await page.innerText("#context-text"), /\d+ of [\d.,]+ tokens/);
  await page.waitForSelector(`.item[aria-current]:has-text("${QUESTION}")`);
  assert.equal(await page.innerText("#title"), QUESTION);
  assert.match(await page.textContent("#status"), new RegExp(ANSWER));
  await accessible(page, "answered");
  await page.reload();
  await ready(page);
  assert.equal(await questions(page).locator(".body").innerText(), QUESTION);
  assert.match(await answers(page).first().innerText(), new RegExp(ANSWER));
  await picture(page, "answered");
});

check("an answer streams and can be stopped with the key and the button", async (page) => {
  await ready(page);
  const stopped = page.locator("#thread").getByText("Stopped.", { exact: true });
  for (const stop of [() => page.keyboard.press("Escape"), () => page.click("#stop", { timeout: 1000 })]) {
    // The model is fast: an answer may end before the stop arrives, and then another is asked for.
    for (let tries = 0; tries === 0 || (await stopped.count()) === 0; tries++) {
      assert.ok(tries < 20, "no stop came in time");
      await page.click("#new");
      await slowly(page);
      await streaming(page);
      await picture(page, "streaming");
      await stop().catch(() => {});
      await page.waitForSelector("[aria-busy]", { state: "detached" });
      assert.ok(await page.isVisible("#send"));
    }
  }
  await page.reload();
  await ready(page);
  assert.equal(await stopped.count(), 1);
  assert.notEqual(await answers(page).locator(".body").innerText(), "");
}, { at: endless });

check("a question can be edited, an answer asked for again, and branches be gone through", async (page) => {
  await ready(page);
  await ask(page);
  await page.click('[aria-label="Edit and send again"]');
  await page.fill(".edit textarea", "What does gzip do?");
  await page.click(".edit .primary");
  await page.locator(".message.user .branches").waitFor();
  assert.match(await questions(page).innerText(), /What does gzip do\?[^]*2\/2/);
  await page.waitForSelector('[aria-label="Answer again"]:not(:disabled)');
  await page.click('[aria-label="Answer again"]');
  await page.locator(".message.assistant .branches").getByText("2/2").waitFor();
  await page.locator('.message.assistant [aria-label="Version before"]:not(:disabled)').click();
  await page.locator(".message.assistant .branches").getByText("1/2").waitFor();
  await page.locator('.message.user [aria-label="Version before"]').click();
  await page.locator(".message.user .branches").getByText("1/2").waitFor();
  assert.equal(await questions(page).locator(".body").innerText(), QUESTION);
  assert.match(await answers(page).innerText(), new RegExp(ANSWER));
  await accessible(page, "branches");
  await picture(page, "branches");
  await page.reload();
  await ready(page);
  assert.equal(await questions(page).locator(".body").innerText(), QUESTION);
});

check("a swarm says who is asked before the first word, and who answered at the end", async (page) => {
  await ready(page);
  await page.selectOption("#model", "swarm");
  await page.evaluate(() => {
    // Event by event, as of a large model: those of the built-in experts may all come between two looks at the page.
    const quick = globalThis.fetch;
    globalThis.fetch = async (...request) => {
      const response = await quick(...request);
      if (!response.headers.get("content-type")?.includes("event-stream")) return response;
      const slow = new TransformStream({
        async transform(chunk, controller) {
          for (const event of new TextDecoder().decode(chunk).split(/(?<=\n\n)/)) {
            controller.enqueue(new TextEncoder().encode(event));
            await new Promise((done) => setTimeout(done, 30));
          }
        },
      });
      return new Response(response.body.pipeThrough(slow), { status: response.status, headers: response.headers });
    };
    globalThis.strips = [];
    new MutationObserver(() => {
      const article = document.querySelector(".message[aria-busy]");
      if (article) globalThis.strips.push([article.querySelector(".experts")?.textContent, article.querySelector(".body").textContent]);
    }).observe(document.querySelector("#thread"), { childList: true, subtree: true });
  });
  await ask(page, "How do I reverse a list in Python?");
  const strips = await page.evaluate(() => globalThis.strips);
  const [, before] = strips.find(([strip]) => /python/.test(strip ?? "")) ?? assert.fail(JSON.stringify(strips));
  const after = await answers(page).first().locator(".body").innerText();
  assert.ok(before.length < after.length, `${before} of ${after}`);
  await page.click(".experts summary");
  assert.ok((await page.locator(".experts li").count()) > 0);
  assert.match(await page.innerText(".experts"), /%/);
  await accessible(page, "swarm");
  await picture(page, "swarm");
  const only = await page.locator("#model option").evaluateAll((options) => options.find((o) => /python only/.test(o.text))?.value);
  await page.selectOption("#model", only);
  await ask(page, "How do I reverse a list in Python?");
  assert.match(await page.locator(".experts").nth(1).innerText(), /python[^]*100 %/);
  await page.reload();
  await ready(page);
  assert.equal(await page.inputValue("#model"), only);
});

check("settings are kept with the conversation", async (page) => {
  await ready(page);
  await page.click("#settings");
  await page.fill("#field-system", "Be brief.");
  await page.fill("#field-max_tokens", "3");
  await accessible(page, "settings");
  await picture(page, "settings");
  await page.click("dialog .primary");
  await ask(page);
  await page.getByText("Cut: the limit of tokens was reached.").waitFor();
  await page.reload();
  await ready(page);
  await page.click("#settings");
  assert.equal(await page.inputValue("#field-system"), "Be brief.");
  assert.equal(await page.inputValue("#field-max_tokens"), "3");
  await page.fill("#field-temperature", "9");
  await page.click("dialog .primary");
  assert.ok(await page.isVisible("dialog"), "a value that cannot be is not taken");
  await page.keyboard.press("Escape");
  await page.waitForSelector("dialog", { state: "detached" });
});

check("conversations are searched, renamed and deleted", async (page) => {
  await ready(page);
  // A word that no model writes by chance.
  await ask(page, "What does chmod do to quokkas?");
  await page.click("#more summary");
  await page.click("#rename");
  await page.fill("#field-title", "Rights of files");
  await page.keyboard.press("Enter");
  await page.waitForSelector('.item[aria-current]:has-text("Rights of files")');
  await page.fill("#search", "QUOKKAS");
  await page.waitForFunction(() => document.querySelectorAll(".item").length === 1);
  assert.match(await page.innerText(".item"), /Rights of files[^]*quokkas/);
  await page.fill("#search", "nothing holds this");
  await page.getByText("Nothing was found.").waitFor();
  await page.fill("#search", "");
  await page.waitForFunction(() => document.querySelectorAll(".item").length > 1);
  await page.click("#more summary");
  await page.click("#delete");
  await accessible(page, "deleting");
  await picture(page, "deleting");
  await page.click("dialog .primary");
  await page.getByText("A model on this machine").waitFor();
  await page.locator('.item:has-text("Rights of files")').waitFor({ state: "detached" });
});

check("conversations go out as files and come back", async (page) => {
  await ready(page);
  await ask(page, "What does cat do?");
  const download = async (button) => {
    await page.click("#more summary");
    const [file] = await Promise.all([page.waitForEvent("download"), page.click(button)]);
    return [file.suggestedFilename(), readFileSync(await file.path(), "utf8")];
  };
  const [name, markdown] = await download("#export-markdown");
  assert.equal(name, "What-does-cat-do.md");
  assert.match(markdown, /^# What does cat do\?\n\n## You\n\nWhat does cat do\?\n/);
  const [, text] = await download("#export-json");
  const file = JSON.parse(text);
  assert.equal(file.conversations[0].messages.length, 2);
  file.conversations[0].title = "Came back";
  const path = join(service.home, "import.json");
  writeFileSync(path, JSON.stringify(file));
  await page.setInputFiles("#import-file", path);
  await page.getByText("1 conversation was imported.").waitFor();
  await page.click('.item:has-text("Came back")');
  assert.equal(await questions(page).locator(".body").innerText(), "What does cat do?");
  writeFileSync(path, "{}");
  await page.setInputFiles("#import-file", path);
  await page.getByText("this is not a file of exported conversations").waitFor();
});

check("files of text are attached, others are refused with the reason", async (page) => {
  await ready(page);
  const file = (name, content) => ({ name, mimeType: "text/plain", buffer: Buffer.from(content) });
  await page.setInputFiles("#files", [file("notes.txt", "alpha\n```\nbeta\n"), file("other.md", "x")]);
  await page.click('[aria-label="Remove other.md"]');
  assert.match(await page.innerText("#chips"), /notes\.txt/);
  await page.setInputFiles("#files", [file("picture.png", Buffer.from([0x89, 0x50, 0, 1]))]);
  await page.getByText("it is not a text in UTF-8").waitFor();
  await page.setInputFiles("#files", [file("huge.txt", "x".repeat(2 << 20))]);
  await page.getByText("Attach the part that matters").waitFor();
  await accessible(page, "attached");
  await picture(page, "attached");
  await ask(page, "What is in it?");
  await page.click(".files summary");
  assert.match(await page.innerText(".files pre"), /alpha/);
  assert.ok(await page.isHidden("#chips"));
});

/** What is dragged or copied: files, and perhaps a text. */
const carried = (page, files, text) => page.evaluateHandle(([all, plain]) => {
  const data = new DataTransfer();
  for (const [name, content] of all) data.items.add(new File([content], name));
  if (plain) data.setData("text/plain", plain);
  return data;
}, [files, text]);

check("files of text are dropped on the page", async (page) => {
  await ready(page);
  const dataTransfer = await carried(page, [["one.txt", "alpha"], ["two.txt", "beta"]]);
  await page.dispatchEvent("main", "dragover", { dataTransfer });
  assert.ok(await page.isVisible("#drop"));
  await page.dispatchEvent("main", "dragleave", { dataTransfer });
  assert.ok(await page.isHidden("#drop"));
  await page.dispatchEvent("main", "dragover", { dataTransfer });
  await picture(page, "drop");
  await page.dispatchEvent("main", "drop", { dataTransfer });
  await page.locator(".chip").nth(1).waitFor();
  assert.ok(await page.isHidden("#drop"));
  assert.match(await page.innerText("#chips"), /one\.txt[^]*two\.txt/);
  // Words are dropped into the field as everywhere; with a dialog open a file is not taken, and the page not left for it.
  const words = await carried(page, [], "words");
  assert.ok(await page.evaluate((data) => document.body.dispatchEvent(
    new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })), words));
  await page.click("#settings");
  await page.dispatchEvent("dialog", "dragover", { dataTransfer });
  assert.ok(await page.isHidden("#drop"));
  const left = await page.evaluate((data) => document.querySelector("dialog").dispatchEvent(
    new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })), dataTransfer);
  assert.ok(!left);
  assert.equal(await page.locator(".chip").count(), 2);
});

check("files of text are pasted, and a text with a picture beside it is a text", async (page) => {
  await ready(page);
  const paste = (data) => page.evaluate((clipboardData) => document.querySelector("#message").dispatchEvent(
    new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true })), data);
  assert.equal(await paste(await carried(page, [["notes.md", "# alpha"]])), false);
  await page.locator(".chip", { hasText: "notes.md" }).waitFor();
  assert.equal(await paste(await carried(page, [["table.png", "\u0000"]], "a\tb")), true);
  assert.equal(await page.locator(".chip").count(), 1);
  assert.ok(await page.isHidden("#banner"));
  await ask(page, "");
  assert.equal(await page.innerText("#title"), "notes.md");
});

check("what a model or a file writes never becomes markup", async (page) => {
  await ready(page);
  const bad = '<img src=x onerror="document.title=1"> [a](javascript:alert(1)) <script>document.title=2</script> ![p](https://a.example/p.png)';
  const message = (id, role, text, parent) => ({ id, role, text, created: 1, ...(parent === undefined ? {} : { parent }) });
  const file = { format: "hublab-conversations", version: 1, conversations: [{ title: bad, created: 1, updated: Date.now(),
    messages: [message(0, "user", bad), message(1, "assistant", bad, 0)] }] };
  const path = join(service.home, "bad.json");
  writeFileSync(path, JSON.stringify(file));
  await page.setInputFiles("#import-file", path);
  await page.locator(".item", { hasText: "onerror" }).click();
  await answers(page).first().waitFor();
  assert.equal(await page.locator("#thread img, #thread script, #list img").count(), 0);
  assert.equal(await page.locator('#thread a[href^="javascript"]').count(), 0);
  assert.match(await page.title(), /^<img/);
});

check("without the service the page says so, keeps what was written, and goes on", async (page) => {
  await ready(page);
  await ask(page);
  await service.kill();
  await page.fill("#message", "Are you there?");
  await page.press("#message", "Enter");
  await page.getByText("The service does not answer").waitFor();
  await written(page, "Are you there?");
  await accessible(page, "offline");
  await picture(page, "offline");
  await service.start();
  await page.waitForSelector("#banner", { state: "hidden" });
  assert.match(await answers(page).first().innerText(), new RegExp(ANSWER));
  await page.press("#message", "Enter");
  await answers(page).nth(1).waitFor();
});

check("a kill in the middle of an answer loses neither question nor page", async (page) => {
  await ready(page);
  // The model is fast: an answer may end before the kill.
  for (let tries = 0; ; tries++) {
    assert.ok(tries < 20, "no kill came in time");
    await page.click("#new");
    await slowly(page);
    await streaming(page);
    await endless.kill();
    const broke = page.getByText("The connection broke; this is what had arrived.");
    const found = await broke.waitFor({ timeout: 10_000 }).then(() => true, () => false);
    await endless.start();
    if (found) break;
  }
  await page.waitForSelector("#banner", { state: "hidden" });
  await page.getByText("There is no answer.").waitFor();
  assert.equal(await questions(page).last().locator(".body").innerText(), QUESTION);
}, { at: endless });

check("everything can be done with the keyboard", async (page) => {
  await ready(page);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
  await page.keyboard.press("Enter");
  await page.keyboard.type(QUESTION);
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("Briefly.");
  assert.equal(await page.inputValue("#message"), `${QUESTION}\nBriefly.`);
  await page.keyboard.press("Enter");
  await answers(page).first().waitFor();
  // The list: from the search with the arrows, and back. It is read again while an answer comes, with the new one on top.
  const current = (at) => page.waitForFunction((at) => document.querySelectorAll(".item")[at]?.ariaCurrent === "true", at);
  await current(0);
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement.id), "search");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await current(1);
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("ArrowUp");
  assert.equal(await page.evaluate(() => document.activeElement.id), "search");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Delete");
  await page.waitForSelector("dialog");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Cancel");
  await page.keyboard.press("Escape");
  await page.waitForSelector("dialog", { state: "detached" });
  // The menu.
  await page.focus("#more summary");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "rename");
  await page.keyboard.press("Escape");
  assert.equal(await page.evaluate(() => document.querySelector("#more").open), false);
  // Focus is seen wherever it goes.
  for (let step = 0; step < 30; step++) {
    await page.keyboard.press("Tab");
    const seen = await page.evaluate(() => {
      const element = document.activeElement;
      if (element === document.body) return true;
      const shown = (node) => getComputedStyle(node).outlineStyle !== "none" || getComputedStyle(node.closest(".box") ?? node).outlineStyle !== "none";
      return shown(element) && element.getBoundingClientRect().width > 0;
    });
    assert.ok(seen, await page.evaluate(() => document.activeElement.outerHTML.slice(0, 200)));
  }
});

check("a telephone's width is enough", async (page) => {
  await ready(page);
  await noSideways(page);
  assert.equal(await page.evaluate(() => document.querySelector("#scroll").scrollTop), 0, "an empty page begins at its beginning");
  await picture(page, "phone-empty");
  await ask(page, `${QUESTION} ${"longword".repeat(20)}`);
  await noSideways(page);
  await accessible(page, "phone");
  await picture(page, "phone");
  await page.click("#side-open");
  await page.waitForSelector(".item");
  await accessible(page, "phone with the list");
  await picture(page, "phone-list");
  await page.locator(".item").nth(1).click();
  await page.waitForFunction(() => !document.body.classList.contains("side-is-open"));
  await page.click("#settings");
  await noSideways(page);
  await picture(page, "phone-settings");
}, { viewport: { width: 360, height: 740 } });

check("dark comes with the system, and by choice", async (page) => {
  await ready(page);
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await paper();
  await ask(page, "What does ls do?");
  await accessible(page, "dark");
  await picture(page, "dark");
  await page.click("#theme");
  const light = await paper();
  assert.notEqual(dark, light);
  await accessible(page, "light");
  await page.click("#theme");
  assert.equal(await paper(), dark);
  await page.reload();
  await ready(page);
  assert.equal(await page.innerText("#theme"), "Theme: dark");
  assert.equal(await page.evaluate(() => localStorage.length + document.cookie.length), 1, "only the theme is remembered");
}, { colorScheme: "dark" });

// ---- services that are set up otherwise ----

const unkept = new Service({ environment: { HUBLAB_SERVER_STORAGE: "false" } });
before(() => unkept.start());
after(() => unkept.end());

check("without storage the page keeps conversations in the tab, and says so", async (page) => {
  await ready(page);
  await page.getByText("Conversations are not kept", { exact: false }).waitFor();
  await ask(page);
  assert.match(await answers(page).first().innerText(), new RegExp(ANSWER));
  await page.click('[aria-label="Answer again"]');
  await page.locator(".message.assistant .branches").getByText("2/2").waitFor();
  await page.click("#new");
  await page.click(".item");
  assert.equal(await questions(page).locator(".body").innerText(), QUESTION);
  await accessible(page, "not kept");
  await picture(page, "not-kept");
  await page.reload();
  await page.waitForFunction(() => document.querySelectorAll(".item").length === 0);
}, { at: unkept });

const locked = new Service({ flags: ["--api-key-file", "keys"] });
before(async () => {
  const keys = join(locked.home, "keys");
  writeFileSync(keys, "reader 0123456789abcdef0123\n");
  locked.flags[1] = keys;
  await locked.start();
});
after(() => locked.end());

check("a service that wants a key is given one, for this tab", async (page) => {
  await page.waitForSelector("dialog #field-key");
  await accessible(page, "key");
  await picture(page, "key");
  await page.fill("#field-key", "wrong");
  await page.keyboard.press("Enter");
  await page.getByText("did not accept the key").waitFor();
  await page.fill("#field-key", "0123456789abcdef0123");
  await page.keyboard.press("Enter");
  await ready(page);
  await ask(page);
  await page.reload();
  await ready(page);
  assert.equal(await page.evaluate(() => localStorage.length + document.cookie.length), 0, "nothing is remembered");
}, { at: locked });

// ---- what a real service does too quickly, or never ----

const scripted = new Scripted();
before(() => scripted.start());
after(() => scripted.end());

function checkScripted(name, body, options) {
  check(name, async (page) => {
    await ready(page);
    await body(page);
  }, { at: scripted, before: () => scripted.reset(), ...options });
}

const turns = (...texts) => texts.map((text, id) =>
  ({ id, ...(id > 0 ? { parent: id - 1 } : {}), role: id % 2 ? "assistant" : "user", text, created: 1 }));
const send = async (page, text) => {
  await page.fill("#message", text);
  await page.press("#message", "Enter");
};
const answerText = (page) => page.locator(".message.assistant").last().locator(".body").innerText();

checkScripted("a question is seen at once, and comes back if it is refused", async (page) => {
  scripted.held = ["/answer"];
  scripted.refusals = [{ method: "POST", path: "/answer", status: 429, message: "too many wait" }];
  await send(page, "Is it seen?");
  await questions(page).getByText("Is it seen?").waitFor();
  await page.getByText("Waiting").waitFor();
  assert.ok(await page.isVisible("#stop"));
  // What is written meanwhile begins no second conversation.
  await send(page, "And this?");
  scripted.release();
  await page.getByText("too many wait").waitFor();
  await page.getByText("A model on this machine").waitFor();
  await written(page, "Is it seen?\n\nAnd this?");
  assert.equal(scripted.conversations.size, 0, "nothing empty stays in the list");
  await page.fill("#message", "");
  scripted.refusals = [{ method: "POST", path: "/answer", status: 429, message: "too many still wait" }];
  await send(page, "Is it seen now?");
  await page.getByText("too many still wait").waitFor();
  await written(page, "Is it seen now?");
});

checkScripted("an answer goes on where it is left and come back to", async (page) => {
  scripted.add("Another", turns("Other?", "Other."));
  await send(page, "What is long?");
  const answer = await scripted.answer();
  answer.start();
  answer.send("experts", { names: ["python", "rust"] });
  answer.send("reasoning", { text: "Let me think." });
  await page.getByText("Thinking").waitFor();
  await page.click(".reasoning summary");
  await page.getByText("Let me think.").waitFor();
  assert.match(await page.locator(".message .experts").innerText(), /python[^]*rust/);
  answer.send("delta", { text: "One" });
  await page.getByText("One", { exact: true }).waitFor();
  await picture(page, "writing");
  await accessible(page, "writing");
  await page.click('.item:has-text("Another")');
  await page.getByText("Other.", { exact: true }).waitFor();
  assert.ok(await page.isVisible("#send"));
  answer.send("delta", { text: ", two" });
  await page.click('.item:has-text("What is long?")');
  await page.getByText("One, two", { exact: true }).waitFor();
  assert.ok(await page.isVisible("#stop"));
  answer.send("delta", { text: ", three" });
  await page.getByText("One, two, three", { exact: true }).waitFor();
  answer.done("One, two, three.");
  await page.getByText("One, two, three.", { exact: true }).waitFor();
  await page.waitForSelector("[aria-busy]", { state: "detached" });
  assert.ok(await page.isVisible("#send"));
  // The browser's way back leads through what was opened.
  await page.goBack();
  await page.getByText("Other.", { exact: true }).waitFor();
});

checkScripted("a question in other words that is refused is not lost", async (page) => {
  scripted.add("Kept", turns("What is it?", "It is."));
  await page.reload();
  await page.click(".item");
  await page.click('[aria-label="Edit and send again"]');
  await page.fill(".edit textarea", "What is it really?");
  scripted.refusals = [{ method: "POST", path: "/answer", status: 400, message: "it is too long" }];
  await page.press(".edit textarea", "Enter");
  await page.getByText("it is too long").waitFor();
  await page.locator(".edit textarea").waitFor();
  assert.equal(await page.inputValue(".edit textarea"), "What is it really?");
  await page.waitForFunction(() => document.activeElement.closest(".edit"));
  await page.press(".edit textarea", "Enter");
  const answer = await scripted.answer();
  answer.start();
  answer.done("Really.");
  await page.getByText("Really.", { exact: true }).waitFor();
  assert.equal(await page.locator(".edit").count(), 0);
});

checkScripted("an answer that could not be kept does not stand in the way of the next", async (page) => {
  await send(page, "First?");
  const first = await scripted.answer();
  first.start();
  first.send("delta", { text: "Half an ans" });
  first.fail("the disk is full");
  await page.getByText("this is what had arrived").waitFor();
  assert.equal(await answerText(page), "Half an ans");
  await page.getByRole("button", { name: "Ask again" }).click();
  const again = await scripted.answer();
  again.start();
  again.done("A whole answer.");
  await page.getByText("A whole answer.", { exact: true }).waitFor();
  assert.equal(await page.getByText("Half an ans").count(), 0);
  await send(page, "Second?");
  const second = await scripted.answer();
  second.start();
  second.done("Second.");
  await page.getByText("Second.", { exact: true }).waitFor();
  assert.deepEqual(await questions(page).locator(".body").allInnerTexts(), ["First?", "Second?"]);
});

checkScripted("the conversation that was asked for last is shown", async (page) => {
  const slow = scripted.add("Slow", turns("Slow?", "Slow."));
  scripted.add("Quick", turns("Quick?", "Quick."));
  await page.reload();
  await page.waitForSelector(".item");
  scripted.held = [slow.id];
  await page.click('.item:has-text("Slow")');
  await page.click('.item:has-text("Quick")');
  await page.getByText("Quick.", { exact: true }).waitFor();
  scripted.release();
  await page.waitForLoadState("networkidle");
  assert.equal(await page.innerText("#title"), "Quick");
});

checkScripted("what was searched for is shown, on its branch and at its place", async (page) => {
  const first = turns("Where is it?", "Here is a needle.", "And more?", "A line.\n\n".repeat(200));
  const branch = [{ id: 4, parent: 0, role: "assistant", text: "Nothing here.", created: 1 }];
  scripted.add("Haystack", [...first, ...branch]);
  scripted.add("Empty");
  await page.reload();
  await page.fill("#search", "needle");
  await page.waitForFunction(() => document.querySelectorAll(".item").length === 1);
  await page.click(".item");
  await page.locator(".found").getByText("Here is a needle.").waitFor();
  assert.equal(await page.locator(".branches").first().innerText().then((text) => text.replace(/\s/g, "")), "‹1/2›");
  const [top, height] = await page.evaluate(() => [document.querySelector(".found").getBoundingClientRect().top, innerHeight]);
  assert.ok(top > 0 && top < height / 2, `${top} of ${height}`);
});

checkScripted("an answer that another tab has written is waited for", async (page) => {
  const conversation = scripted.add("Shared", turns("Who writes?"));
  conversation.writing = true;
  await page.reload();
  await page.click(".item");
  await page.getByText("The answer is being written").waitFor();
  assert.equal(await page.getByText("There is no answer.").count(), 0);
  conversation.messages.push({ ...turns("", "Another tab.")[1] });
  Object.assign(conversation, { writing: false, active: 1, updated: conversation.updated + 1 });
  await page.getByText("Another tab.", { exact: true }).waitFor();
});

checkScripted("an answer that has begun while its conversation was read again is shown", async (page) => {
  const conversation = scripted.add("Kept", turns("One?", "One."));
  await page.reload();
  await page.click(".item");
  await page.getByText("One.", { exact: true }).waitFor();
  let isBroken = true;
  await page.route("**/answer", (route) => (isBroken ? route.abort() : route.continue()));
  scripted.held = [conversation.id];
  await send(page, "Two?");
  await page.getByText("The service does not answer").waitFor();
  await written(page, "Two?");
  // The page finds the service again, and reads the conversation while the question is sent.
  while (scripted.waiting.length === 0) await new Promise((done) => setTimeout(done, 5));
  isBroken = false;
  scripted.held = [];
  await page.press("#message", "Enter");
  const answer = await scripted.answer();
  const read = page.waitForResponse((response) => response.url().endsWith(conversation.id));
  scripted.release();
  await (await read).finished();
  answer.start();
  answer.done("Two.");
  await page.getByText("Two.", { exact: true }).waitFor();
  assert.deepEqual(await page.locator(".message .body").allInnerTexts(), ["One?", "One.", "Two?", "Two."]);
});

checkScripted("a refusal that is not about a key asks for none", async (page) => {
  scripted.refusals = [{ method: "GET", path: "/api/web", status: 403, message: "this service is not called `x`" }];
  await page.reload();
  await page.getByText("this service is not called").waitFor();
  assert.equal(await page.locator("dialog").count(), 0);
  await page.getByRole("button", { name: "Try again" }).click();
  await ready(page);
  await page.waitForSelector("#banner", { state: "hidden" });
});

checkScripted("a stop before the first word gives the question back", async (page) => {
  await send(page, "Too early?");
  await scripted.answer();
  await page.keyboard.press("Escape");
  await written(page, "Too early?");
  assert.ok(await page.isVisible("#send"));
  assert.equal(scripted.conversations.size, 0, "nothing empty stays in the list");
});

checkScripted("the keyboard stays where it was, and the end can be gone to", async (page) => {
  scripted.add("Long", turns("Long?", "A line.\n\n".repeat(200)));
  await page.reload();
  await page.click(".item");
  await answers(page).waitFor();
  assert.ok(await page.isHidden("#to-end"));
  await page.focus("#scroll");
  await page.keyboard.press("Home");
  await page.waitForFunction(() => document.querySelector("#scroll").scrollTop === 0);
  await page.click("#to-end");
  await page.waitForSelector("#to-end", { state: "hidden" });
  await page.focus('[aria-label="Answer again"]');
  await page.keyboard.press("Enter");
  const answer = await scripted.answer();
  assert.equal(await page.evaluate(() => document.activeElement.id), "stop");
  answer.start();
  answer.done("Short.");
  await page.locator(".branches").getByText("2/2").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "message");
  await page.focus('[aria-label="Version before"]');
  await page.keyboard.press("Enter");
  await page.locator(".branches").getByText("1/2").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Version after");
});

checkScripted("on a telephone Enter begins a line", async (page) => {
  await send(page, "One");
  assert.equal(await page.inputValue("#message"), "One\n");
  await page.locator("#message").pressSequentially("two");
  await page.tap("#send");
  const answer = await scripted.answer();
  answer.start();
  answer.done("Yes.");
  await page.getByText("Yes.", { exact: true }).waitFor();
  assert.equal(await questions(page).locator(".body").innerText(), "One\ntwo");
}, { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });
