// Parts that several pages share.

import { get, may, PAGE_SIZE, Problem } from "./api.js";
import { h } from "./dom.js";
import { formatExact, formatInstant, number } from "./format.js";
import { text } from "./text.js";

/** Return a section with a heading; `lead` is a sentence below it. */
export function section(title, { lead = null, id = null, tools = [], wide = false } = {}, ...children) {
  const heading = id ?? title.toLowerCase().replace(/\W+/g, "-");
  return h("section", { class: wide ? "card wide" : "card", "aria-labelledby": heading },
    h("div", { class: "card-head" }, h("h2", { id: heading }, title), h("div", { class: "tools" }, tools)),
    lead === null ? null : h("p", { class: "lead" }, lead),
    children);
}

/** Return the sentence of an error, as the API wrote it. */
export function problemBox(error, again = null) {
  if (!(error instanceof Problem)) console.error(error);
  const sentences = error.errors?.map(each => each.detail).filter(detail => !error.detail?.includes(detail)) ?? [];
  return h("div", { class: "problem", role: "alert" },
    h("p", {}, error.detail ?? String(error)),
    sentences.length ? h("ul", {}, sentences.map(each => h("li", {}, each))) : null,
    error.requestId ? h("p", { class: "quiet" }, text.requestId(error.requestId)) : null,
    again === null ? null : h("button", { type: "button", onclick: again }, text.retry));
}

/** Fill an element with what a promise returns, or with its error; show that it loads meanwhile. */
export async function fill(element, signal, make) {
  element.setAttribute("aria-busy", "true");
  try {
    const made = await make();
    if (!signal.aborted) element.replaceChildren(...[made].flat().filter(Boolean));
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    element.replaceChildren(problemBox(error, () => fill(element, signal, make)));
  }
  element.removeAttribute("aria-busy");
}

export const badge = (kind, label) => h("span", { class: `badge ${kind}` }, label);
export const statusBadge = status => badge(status, text.status[status] ?? status);

/** Let a badge show the state of a stream. */
export function showState(element, state) {
  element.className = state === "live" ? "badge good" : "badge warn";
  element.textContent = state === "live" ? text.live : text.reconnecting;
}

export const when = (instant, format = formatInstant) =>
  h("time", { datetime: instant, title: formatExact(instant) }, format(instant));

export const link = (to, ...children) => h("a", { href: `#${to}` }, children);
export const quiet = sentence => h("p", { class: "quiet" }, sentence);

export const codeOf = course => (course.section ? `${course.code}-${course.section}` : course.code);
export const nameOf = student =>
  [student.given_name, student.family_name].filter(Boolean).join(" ") || text.unknown;
const alsoCalled = student => (student.preferred_name && student.preferred_name !== student.given_name ? ` (${student.preferred_name})` : "");
export const fullNameOf = student => nameOf(student) + alsoCalled(student);

export const courseLink = course => link(`/courses/${course.id}`, h("b", { class: "code" }, codeOf(course)));
export const studentLink = student => link(`/students/${student.id}`, fullNameOf(student));

// --- Names of ids: the calls for the ids of one moment are one call.

const known = { courses: new Map(), students: new Map() };
const wanted = { courses: new Map(), students: new Map() };
const MOST_IDS = 100;
const MOST_KNOWN = 2000;

/** Return the course or the student with an id, or null if there is none or the caller may not read it. */
export function lookUp(kind, id) {
  if (known[kind].size > MOST_KNOWN) known[kind].clear();
  if (known[kind].has(id)) return known[kind].get(id);
  const found = new Promise(resolve => wanted[kind].set(id, resolve));
  known[kind].set(id, found);
  if (wanted[kind].size === 1) queueMicrotask(() => resolveAll(kind));
  return found;
}

async function resolveAll(kind) {
  const entries = [...wanted[kind]];
  wanted[kind].clear();
  for (let start = 0; start < entries.length; start += MOST_IDS) {
    const some = entries.slice(start, start + MOST_IDS);
    let items = [];
    try {
      if (may("read")) items = (await get(kind, { id: some.map(([id]) => id).join(","), limit: MOST_IDS })).items;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      for (const [id] of some) known[kind].delete(id);
    }
    const byId = new Map(items.map(each => [each.id, each]));
    for (const [id, resolve] of some) resolve(byId.get(id) ?? null);
  }
}

/** Return a link to a course by its id; its code follows once it is known. */
export function courseById(id) {
  const made = link(`/courses/${id}`, h("b", { class: "code" }, `#${id}`));
  Promise.resolve(lookUp("courses", id)).then(course => {
    if (course !== null) made.replaceChildren(...courseLink(course).childNodes);
  });
  return made;
}

/** Return a link to a student by the id; the name follows once it is known. */
export function studentById(id) {
  const made = link(`/students/${id}`, `#${id}`);
  Promise.resolve(lookUp("students", id)).then(student => {
    if (student !== null) made.replaceChildren(fullNameOf(student));
  });
  return made;
}

/** Return reasons in the API's words, with links to the other courses that they name. */
export function reasonList(reasons) {
  return h("ul", { class: "reasons" }, reasons.map(reason =>
    h("li", {},
      h("span", {}, reason.detail),
      reason.with_course_id ? [" ", courseById(reason.with_course_id)] : null,
      h("code", { class: "rule" }, reason.code))));
}

/**
 * Return a table; a column has a `head`, a function `cell` of an item, and perhaps a class.
 *
 * On a small screen each row is a card, where each cell has its head as a label, unless the column is `plain`. Columns
 * with a `width` keep it while the figures in them change.
 */
export function table(caption, columns, items, attributes = () => ({})) {
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    h("table", { class: columns[0].width ? "fixed" : null },
      columns[0].width ? h("colgroup", {}, columns.map(each => h("col", { style: { width: each.width } }))) : null,
      h("thead", {}, h("tr", {}, columns.map(each => h("th", { scope: "col", class: each.class }, each.head)))),
      h("tbody", {}, items.map(item => h("tr", attributes(item), columns.map((each, index) =>
        h(index === 0 ? "th" : "td", { class: each.class, scope: index === 0 ? "row" : null, "data-head": index === 0 || each.plain ? null : each.head }, each.cell(item))))))));
}

/**
 * Return a list that shows one page at a time and says what it leaves out.
 *
 * `load(cursor)` returns a page of the API, `show(items)` its element. `total` returns how many items there are, or null
 * if that is unknown. The element has a function `reload`, which reads the current page again.
 */
export function paged({ signal, load, show, empty, total = () => null, label }) {
  const body = h("div", { class: "page" });
  const count = h("p", { class: "count", role: "status" });
  const back = h("button", { type: "button", onclick: () => turn(-1) }, text.list.previous);
  const on = h("button", { type: "button", onclick: () => turn(1) }, text.list.next);
  const buttons = h("div", { class: "turn" }, back, on);
  const foot = h("nav", { class: "foot", "aria-label": label }, count, buttons);
  const element = h("div", { class: "list" }, body, foot);
  let cursors = [null];
  let starts = [0];
  let next = null;

  async function turn(step) {
    if (step > 0) {
      cursors.push(next);
      starts.push(starts.at(-1) + body.dataset.items * 1);
    } else if (step < 0) {
      cursors.pop();
      starts.pop();
    }
    await read();
    if (step) body.querySelector("a, button")?.focus({ preventScroll: false });
  }

  async function read() {
    back.disabled = on.disabled = true;
    await fill(body, signal, async () => {
      const page = await load(cursors.at(-1), signal);
      next = page.next;
      body.dataset.items = page.items.length;
      describe(page.items.length);
      if (page.items.length) return show(page.items);
      return quiet(next === null && cursors.length === 1 ? empty : text.list.nothingHere);
    });
    back.disabled = cursors.length === 1;
    on.disabled = next === null;
    buttons.hidden = cursors.length === 1 && next === null;
  }

  function describe(items) {
    const start = starts.at(-1);
    const all = total();
    if (!items) count.textContent = "";
    else if (start === 0 && next === null) count.textContent = text.list.all(items);
    else if (start === 0) count.textContent = text.list.first(items, all);
    else if (all !== null) count.textContent = text.list.rangeOf(start + 1, start + items, all);
    else count.textContent = text.list.range(start + 1, start + items) + (next === null ? "" : text.list.more);
  }

  element.reload = () => read();
  element.restart = () => {
    cursors = [null];
    starts = [0];
    return read();
  };
  element.ready = read();
  return element;
}

/** Return a number whose width does not change while it moves. */
export const figure = (label, value, note = null) =>
  h("div", { class: "figure" },
    h("dt", {}, label),
    h("dd", {}, h("b", {}, typeof value === "number" ? number(value) : value), note === null ? null : h("small", {}, note)));

export { PAGE_SIZE };
