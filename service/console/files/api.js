// Calls of the public API, with the token that the user pasted.

import { text } from "./text.js";

const ROOT = new URL("./", document.baseURI);
const TOKEN = "token";
const INSTITUTION = "institution";
export const PAGE_SIZE = 50;

/** What the caller may do, as GET /whoami returned it; null while nobody is signed in. */
export let caller = null;
let links = {};

/** An error of the API, or of the way to it; `detail` is the sentence to show. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail);
    this.status = status;
    this.code = body.code;
    this.detail = body.detail;
    this.errors = body.errors ?? [];
    this.requestId = body.request_id ?? null;
  }
}

/** Keep a token for this tab only; the browser forgets it with the tab. */
export function keep(token, institution) {
  for (const [name, value] of [[TOKEN, token], [INSTITUTION, institution]]) {
    if (value) sessionStorage.setItem(name, value);
    else sessionStorage.removeItem(name);
  }
}

export const institution = () => sessionStorage.getItem(INSTITUTION) ?? "";

/** Forget the token. */
export function forget() {
  sessionStorage.removeItem(TOKEN);
  sessionStorage.removeItem(INSTITUTION);
  caller = null;
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

/** Ask the service who calls, and what it has. */
export async function identify() {
  const [found, index] = await Promise.all([get("whoami"), get("")]);
  caller = found;
  links = index.links;
}

/** Whether this version of the service has a list. */
export const hasPath = name => name in links;

export const may = scope => caller !== null && caller.scopes.includes(scope);

/** Whether the caller may make the calls of a scope that are about one student. */
export const mayFor = (scope, student) =>
  may(scope) || (may("self") && caller.student_id === Number(student) && (scope === "read" || scope === "enroll"));

function headers(more) {
  const found = { ...more };
  const token = sessionStorage.getItem(TOKEN);
  if (token) found.Authorization = `Bearer ${token}`;
  const name = sessionStorage.getItem(INSTITUTION);
  if (name) found["X-Institution"] = name;
  return found;
}

/** Return the URL of a path, with the parameters that have a value. */
export function url(path, query = {}) {
  const found = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") found.searchParams.set(name, value);
  }
  return found;
}

/** Send a request and return its response; throw a Problem if it is refused. */
export async function send(method, path, { query, body, type, accept, signal, lastEventId } = {}) {
  const json = body !== undefined && type === undefined;
  const content = body === undefined ? {} : { "Content-Type": type ?? "application/json" };
  const more = { Accept: accept ?? "application/json", ...content };
  if (lastEventId) more["Last-Event-ID"] = lastEventId;
  const options = { method, headers: headers(more), body: json ? JSON.stringify(body) : body, signal, cache: "no-store" };
  let response;
  try {
    response = await fetch(url(path, query), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { code: "unreachable", detail: text.unreachable });
  }
  if (response.ok) return response;
  let problem;
  try {
    problem = await response.json();
  } catch {
    problem = { code: "unreadable", detail: text.unreadable(response.status) };
  }
  if (response.status === 401) window.dispatchEvent(new CustomEvent("signed-out", { detail: problem.detail }));
  throw new Problem(response.status, problem);
}

async function call(method, path, options) {
  const response = await send(method, path, options);
  return response.status === 204 ? null : response.json();
}

export const get = (path, query, signal) => call("GET", path, { query, signal });
export const post = (path, body, options = {}) => call("POST", path, { body, ...options });
export const remove = (path, query, signal) => call("DELETE", path, { query, signal });

/** Yield the pages of a list to its end. */
export async function* pages(path, query, signal) {
  let cursor = null;
  do {
    const page = await get(path, { limit: 500, ...query, cursor }, signal);
    yield page.items;
    cursor = page.next;
  } while (cursor !== null);
}
