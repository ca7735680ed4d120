// Imports: upload files, follow their progress, look at the plan and at the errors row by row, confirm or cancel.

import { get, may, post, send } from "./api.js";
import { announce, h, repeat } from "./dom.js";
import { number } from "./format.js";
import { badge, figure, fill, link, paged, problemBox, quiet, section, table, when } from "./parts.js";
import { text } from "./text.js";

const SHOWN_ERRORS = 200;
const POLL_MILLISECONDS = 1000;
const ENDED = ["done", "failed", "cancelled"];
const WORKING = ["queued", "staging", "confirmed"];
const KINDS = { done: "good", failed: "bad", planned: "warn" };
const ZIP = "application/zip";
const CSV = "text/csv";

export async function show({ frame, values: [id], signal, go }) {
  return id === undefined ? showAll({ frame, signal, go }) : showOne({ frame, id, signal });
}

const stateBadge = each => badge(KINDS[each.state] ?? "quiet", text.imports.states[each.state] ?? each.state);

/** Return the names that a file of plain CSV can have, from the API document. */
async function fileNames(signal) {
  const document = await get("openapi.json", {}, signal);
  const parameter = document.paths["/imports"].post.parameters.find(each => each.name === "file").schema;
  return parameter.enum ?? document.components.schemas[parameter.$ref.split("/").at(-1)].enum;
}

async function showAll({ frame, signal, go }) {
  const list = paged({
    signal,
    label: text.imports.title,
    empty: text.imports.none,
    load: cursor => get("imports", { cursor }, signal),
    show: items => table(text.imports.title, [
      { head: text.imports.number, cell: each => link(`/imports/${each.id}`, text.imports.one(each.id)) },
      { head: text.imports.file, cell: each => each.name },
      { head: text.imports.source, cell: each => each.source },
      { head: text.table.status, cell: stateBadge },
      { head: text.table.who, class: "extra", cell: each => each.actor ?? "" },
      { head: text.table.when, class: "nowrap", cell: each => when(each.created_at) },
    ], items),
  });
  frame.append(
    h("div", { class: "title" }, h("div", {}, h("h1", {}, text.imports.title), h("p", { class: "lead" }, text.imports.lead))),
    may("enroll") ? await upload(signal, go) : quiet(text.noScope("enroll")),
    section(text.imports.all, { id: "all" }, list));
  return text.imports.title;
}

/** Return the form that sends files. */
async function upload(signal, go) {
  const names = await fileNames(signal);
  const file = h("input", { type: "file", id: "file", accept: ".zip,.csv", required: true, onchange: () => guess() });
  const name = h("select", { id: "name" }, names.map(each => h("option", { value: each }, each)));
  const naming = h("div", { hidden: true }, h("label", { for: "name" }, text.imports.rows), name);
  const source = h("input", { id: "source", value: "import", required: true, maxlength: "200" });
  const threshold = h("input", { id: "threshold", type: "number", min: "0", max: "100", value: "10" });
  const options = ["strict", "drop", ...(may("override") ? ["as_recorded"] : [])].map(each =>
    h("label", { class: "check" }, h("input", { type: "checkbox", name: each, checked: each === "drop" }), " ", text.imports.options[each]));
  const told = h("div", { role: "status" });
  const button = h("button", { type: "submit", class: "primary" }, text.imports.send);
  const isCsv = () => file.files[0]?.name.toLowerCase().endsWith(".csv") ?? false;
  const guess = () => {
    naming.hidden = !isCsv();
    const its = file.files[0]?.name.toLowerCase();
    if (names.includes(its)) name.value = its;
  };
  const form = h("form", { class: "upload", onsubmit: async event => {
    event.preventDefault();
    button.disabled = true;
    told.replaceChildren(quiet(text.imports.sending));
    const query = { source: source.value.trim(), threshold: threshold.value, file: isCsv() ? name.value : null };
    for (const each of form.querySelectorAll("input[type=checkbox]")) query[each.name] = String(each.checked);
    try {
      const response = await send("POST", "imports", { query, body: file.files[0], type: isCsv() ? CSV : ZIP, signal });
      const made = await response.json();
      go(`/imports/${made.id}`);
    } catch (error) {
      if (!signal.aborted) told.replaceChildren(problemBox(error));
      button.disabled = false;
    }
  } },
  h("div", { class: "filters-row" },
    h("div", {}, h("label", { for: "file" }, text.imports.choose), file),
    naming,
    h("div", {}, h("label", { for: "source" }, text.imports.source), source),
    h("div", {}, h("label", { for: "threshold" }, text.imports.threshold), threshold)),
  h("div", { class: "checks" }, options),
  h("div", { class: "tools" }, button),
  told);
  return section(text.imports.upload, { id: "upload", lead: text.imports.uploadLead }, form);
}

async function showOne({ frame, id, signal }) {
  let found = await get(`imports/${id}`, {}, signal);
  const head = h("div", { class: "tools" });
  const state = h("div", { class: "summary", role: "status" });
  const plan = h("div", { class: "stack" });
  frame.append(
    h("div", { class: "title" },
      h("div", {}, h("h1", {}, text.imports.one(found.id)),
        h("p", { class: "lead" }, [found.name, found.source, found.format].filter(Boolean).join(" · "), " · ", when(found.created_at))),
      head),
    h("section", { class: "card", "aria-label": text.table.status }, state),
    plan);

  const change = what => async event => {
    event.target.disabled = true;
    try {
      found = await post(`imports/${id}/${what}`, undefined);
      await draw();
    } catch (error) {
      event.target.disabled = false;
      if (!signal.aborted) state.append(problemBox(error));
    }
  };
  const draw = async () => {
    const { progress } = found;
    const share = progress.rows_total ? progress.rows_done / progress.rows_total : 0;
    head.replaceChildren(...[
      found.state === "planned" && found.problem === null && may("enroll") && (may("override") || !found.as_recorded)
        ? h("button", { type: "button", class: "primary", onclick: change("confirm") }, text.imports.confirm) : null,
      ENDED.includes(found.state) ? null : h("button", { type: "button", onclick: change("cancel") }, text.imports.cancel),
    ].filter(Boolean));
    state.replaceChildren(...[
      h("p", {}, stateBadge(found), " ", text.imports.meanings[found.state] ?? ""),
      found.problem === null ? null : h("div", { class: "problem", role: "alert" }, h("p", {}, found.problem)),
      WORKING.includes(found.state) ? h("progress", {
        max: "1", value: progress.rows_total ? share : null, "aria-label": text.imports.progress,
      }) : null,
      found.state === "planned" ? null : h("p", { class: "count" }, text.imports.rowsOf(progress.rows_done, progress.rows_total)),
    ].filter(Boolean));
    if (found.state === "planned" || ENDED.includes(found.state)) await drawPlan();
  };
  const drawPlan = async () => {
    if (plan.dataset.state === found.state) return;
    plan.dataset.state = found.state;
    announce(text.imports.states[found.state] ?? found.state);
    const place = h("div", { class: "page" });
    const errors = h("div", { class: "page" });
    plan.replaceChildren(
      section(found.state === "done" ? text.imports.did : text.imports.plan, { id: "plan" }, place),
      section(text.imports.errors, { id: "errors", lead: text.imports.errorsLead,
        tools: [h("button", { type: "button", onclick: event => saveErrors(id, event.target) }, text.imports.saveErrors)] }, errors));
    await Promise.all([
      fill(place, signal, async () => planOf(await get(`imports/${id}/plan`, {}, signal))),
      fill(errors, signal, async () => errorsOf(await firstErrors(id, signal))),
    ]);
  };
  await draw();
  repeat(POLL_MILLISECONDS, signal, async () => {
    if (!WORKING.includes(found.state)) return;
    try {
      found = await get(`imports/${id}`, {}, signal);
      await draw();
    } catch (error) {
      if (!signal.aborted) state.replaceChildren(problemBox(error));
    }
  });
  return text.imports.one(found.id);
}

function planOf(plan) {
  const actions = ["add", "change", "drop", "unchanged", "refused"];
  return h("div", { class: "stack" },
    table(text.imports.plan, [
      { head: text.imports.kind, cell: each => text.imports.kinds[each.kind] ?? each.kind },
      ...actions.map(action => ({
        head: text.imports.actions[action], class: "number",
        cell: each => (action === "refused" && each.refused ? badge("bad", number(each.refused)) : number(each[action])),
      })),
    ], plan.counts),
    plan.refused.length ? h("dl", { class: "figures" }, plan.refused.map(each => figure(each.code, each.count))) : null,
    plan.warnings.length ? h("ul", { class: "plain" }, plan.warnings.map(each =>
      h("li", {}, `${each.file}: `, h("code", {}, each.code), ` (${number(each.count)})`))) : null,
    plan.samples.length ? h("div", {}, h("h3", {}, text.imports.samples),
      table(text.imports.samples, [
        { head: text.imports.key, cell: each => each.key.replace("\t", " · ") || "–" },
        { head: text.imports.kind, cell: each => text.imports.kinds[each.kind] ?? each.kind },
        { head: text.imports.action, cell: each => badge({ refused: "bad", add: "good", drop: "warn" }[each.action] ?? "quiet", text.imports.actions[each.action]) },
        { head: text.imports.place, cell: each => (each.file ? text.imports.line(each.file, each.line) : "") },
        { head: text.table.reasons, cell: each => each.detail ?? "" },
      ], plan.samples)) : null);
}

/** Return the first rows of the table of errors, and whether more follow; the rest is not read. */
async function firstErrors(id, signal) {
  const stop = new AbortController();
  signal.addEventListener("abort", () => stop.abort());
  const response = await send("GET", `imports/${id}/errors`, { accept: CSV, signal: stop.signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let read = "";
  let rows = [];
  for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
    read += chunk.value;
    rows = parseCsv(read);
    if (rows.length > SHOWN_ERRORS + 2) {
      await reader.cancel();
      break;
    }
  }
  const [head = [], ...found] = rows;
  const items = found.slice(0, SHOWN_ERRORS).map(row => Object.fromEntries(head.map((name, index) => [name, row[index]])));
  return { items, more: found.length > SHOWN_ERRORS };
}

/** Split CSV (RFC 4180) into rows of fields. */
export function parseCsv(read) {
  const rows = [];
  let row = [];
  for (const match of read.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    const [, quoted, plain, end] = match;
    if (end === "" && match[0] === "" && !row.length) break;
    row.push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end !== ",") {
      rows.push(row);
      row = [];
    }
    if (end === "") break;
  }
  return rows;
}

function errorsOf({ items, more }) {
  if (!items.length) return quiet(text.imports.noErrors);
  return [table(text.imports.errors, [
    { head: text.imports.place, class: "nowrap", cell: each => text.imports.line(each.file, Number(each.line)) },
    { head: text.imports.column, cell: each => h("code", {}, each.column) },
    { head: text.imports.key, cell: each => each.key },
    { head: text.table.reason, cell: each => [each.detail, h("code", { class: "rule" }, each.code)] },
  ], items),
  h("p", { class: "count" }, more ? text.imports.firstErrors(items.length) : text.list.all(items.length))];
}

/** Save the whole table of errors. */
async function saveErrors(id, button) {
  button.disabled = true;
  try {
    const response = await send("GET", `imports/${id}/errors`, { accept: CSV });
    const file = URL.createObjectURL(await response.blob());
    h("a", { href: file, download: text.imports.errorsFile(id) }).click();
    setTimeout(() => URL.revokeObjectURL(file), 1000);
  } finally {
    button.disabled = false;
  }
}
