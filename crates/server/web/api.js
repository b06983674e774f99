// Requests to the service that this page came from.

import { events } from "./sse.js";

const KEY = "hublab-key";

/** The service said no, and why. */
export class ServiceError extends Error {
  constructor(status, message, code) {
    super(message);
    Object.assign(this, { status, code });
  }
}

/** Nobody answers. */
export class Unreachable extends Error {
  constructor() {
    super("The service does not answer.");
  }
}

/** The API key, kept until this tab is closed; where the browser keeps nothing, until it is reloaded. */
export const key = {
  value: "",
  set(value) {
    this.value = value;
    try {
      sessionStorage.setItem(KEY, value);
    } catch {
      // It is in `value`.
    }
  },
  get() {
    try {
      this.value ||= sessionStorage.getItem(KEY) ?? "";
    } catch {
      // As above.
    }
    return this.value;
  },
};

/** What a request that failed on the way is: given up by the page, or unanswered. */
const lost = (error) => (error.name === "AbortError" ? error : new Unreachable());

/** A response that is not an error. */
export async function request(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const content = body === undefined || typeof body === "string" || body instanceof Blob ? body : JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, { method, headers, body: content, signal, cache: "no-store", credentials: "omit" });
  } catch (error) {
    throw lost(error);
  }
  if (response.ok) return response;
  let said;
  try {
    said = (await response.json()).error;
  } catch {
    said = null;
  }
  const message = (typeof said === "string" ? said : said?.message) || `The service answered ${response.status}.`;
  throw new ServiceError(response.status, message, said?.code ?? said?.type);
}

/** A response as JSON. */
export async function json(path, options) {
  const response = await request(path, options);
  try {
    return response.status === 204 ? null : await response.json();
  } catch (error) {
    throw lost(error);
  }
}

/** A response as a file. */
export async function file(path) {
  const response = await request(path);
  try {
    return await response.blob();
  } catch {
    throw new Error("The file broke off before its end: try again. If it happens again, the service's log says why.");
  }
}

/** Events of an answer: { event, ...data }. */
export async function* stream(path, options) {
  const response = await request(path, { method: "POST", ...options });
  try {
    for await (const { event, data } of events(response)) yield { event, ...JSON.parse(data) };
  } catch (error) {
    throw lost(error);
  }
}
