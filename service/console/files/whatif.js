// What if: choose courses, see every reason by a dry run, then make the change.

import { get, mayFor, post, Problem } from "./api.js";
import { announce, debounced, h } from "./dom.js";
import { badge, codeOf, courseLink, problemBox, quiet, reasonList, section } from "./parts.js";
import { seatBar } from "./seats.js";
import { text } from "./text.js";

const FOUND = 8;

/** Return the panel; `preview(courses, dropped)` shows the plan in the week, `changed(sentence)` follows a change. */
export function whatIf({ id, overview, signal, preview, changed }) {
  const chosen = new Map();
  const dropped = new Map();
  let run = 0;

  const found = h("ul", { class: "hits results found" });
  const field = h("input", {
    type: "search", id: "what-if-find", placeholder: text.whatIf.findHint, autocomplete: "off", spellcheck: "false",
    "aria-controls": "what-if-found",
    oninput: debounced(150, search),
    onkeydown: event => {
      if (event.key === "ArrowDown") {
        event.preventDefault();
        found.querySelector("button")?.focus();
      }
      if (event.key === "Enter") {
        event.preventDefault();
        found.querySelector("button")?.click();
      }
    },
  });
  found.id = "what-if-found";
  const chips = h("ul", { class: "chips" });
  const drops = h("div", {});
  const waitlist = h("input", { type: "checkbox", id: "what-if-waitlist", onchange: () => check() });
  const result = h("div", { class: "page result", role: "status" });

  async function search() {
    const query = field.value.trim();
    if (!query) return found.replaceChildren();
    try {
      const terms = new Set(overview().terms.map(each => each.term_id));
      const page = await get("courses", { q: query, status: "open", limit: 50 }, signal);
      const has = new Set(overview().courses.map(each => each.course_id));
      const fresh = page.items.filter(each => !chosen.has(each.id) && !has.has(each.id));
      const order = each => (terms.has(each.term_id) ? 0 : 1);
      const some = fresh.toSorted((one, other) => order(one) - order(other) || (other.term_id ?? 0) - (one.term_id ?? 0)).slice(0, FOUND);
      found.replaceChildren(...some.map(course => h("li", {},
        h("button", { type: "button", class: "hit", "aria-label": text.whatIf.add(codeOf(course)), onclick: () => add(course) },
          h("strong", {}, h("b", { class: "code" }, codeOf(course)), " ", course.title), h("span", {}, names.get(course.term_id) ?? "")),
        seatBar(course))));
      if (!some.length) found.replaceChildren(h("li", {}, quiet(text.search.nothing(query))));
    } catch (error) {
      if (!signal.aborted) found.replaceChildren(h("li", {}, problemBox(error)));
    }
  }

  const names = new Map();
  get("terms", { limit: 500 }, signal).then(page => page.items.forEach(each => names.set(each.id, each.name))).catch(() => {});

  function add(course) {
    chosen.set(course.id, course);
    field.value = "";
    found.replaceChildren();
    field.focus();
    draw();
  }

  function draw() {
    chips.replaceChildren(...(chosen.size ? [] : [h("li", { class: "none" }, text.whatIf.nothingChosen)]), ...[...chosen.values()].map(course => h("li", {}, h("b", { class: "code" }, codeOf(course)), " ", course.title,
      h("button", { type: "button", class: "take", "aria-label": text.whatIf.take(codeOf(course)), onclick: () => {
        chosen.delete(course.id);
        field.focus();
        draw();
      } }, "×"))));
    const seats = overview().courses.filter(each => each.status === "enrolled");
    drops.replaceChildren(...(seats.length ? [h("fieldset", {}, h("legend", {}, text.whatIf.drop), h("p", { class: "quiet" }, text.whatIf.dropLead),
      h("div", { class: "checks" }, seats.map(each => h("label", {},
        h("input", { type: "checkbox", checked: dropped.has(each.course_id), onchange: event => {
          if (event.target.checked) dropped.set(each.course_id, each.course);
          else dropped.delete(each.course_id);
          check();
        } }), " ", each.course.code))))] : []));
    check();
  }

  const plan = () => {
    const ids = [...chosen.keys()];
    const onFull = waitlist.checked ? "waitlist" : "fail";
    return dropped.size
      ? { path: `students/${id}/swap`, body: { drop: [...dropped.keys()], add: ids, on_full: onFull } }
      : { path: `students/${id}/enroll`, body: { course_ids: ids, mode: "partial", on_full: onFull } };
  };

  /** Ask for the result without changing anything. */
  async function check() {
    preview([...chosen.values()], [...dropped.keys()]);
    const mine = ++run;
    if (!chosen.size && !dropped.size) return result.replaceChildren(quiet(text.whatIf.nothingYet));
    result.setAttribute("aria-busy", "true");
    const { path, body } = plan();
    let made;
    try {
      made = await post(path, body, { query: { dry_run: "true" }, signal });
    } catch (error) {
      if (signal.aborted) return;
      made = error;
    }
    if (mine !== run) return;
    result.removeAttribute("aria-busy");
    result.replaceChildren(made instanceof Error ? refusal(made) : outcome(made.results));
  }

  /** Return what a swap is refused for, course by course. */
  function refusal(error) {
    if (!(error instanceof Problem) || error.status !== 409) return problemBox(error);
    announce(error.detail);
    const byCourse = Map.groupBy(error.errors, each => each.course_id);
    return h("div", {}, h("p", { class: "verdict bad" }, text.whatIf.refused),
      h("ul", { class: "rows" }, [...byCourse].map(([course, reasons]) => h("li", {}, h("div", { class: "row-main" },
        labelOf(course), " ", badge("bad", text.whatIf.outcomes.refused), reasonList(reasons))))));
  }

  function labelOf(course) {
    const its = chosen.get(course) ?? dropped.get(course);
    return its ? courseLink(its) : h("b", {}, `#${course}`);
  }

  function outcome(results) {
    const refused = results.filter(each => each.outcome === "refused");
    const granted = results.filter(each => each.outcome === "enrolled" || each.outcome === "waitlisted");
    const verdict = refused.length === 0 ? text.whatIf.granted
      : granted.length ? text.whatIf.partly(granted.length, refused.length) : text.whatIf.refused;
    announce(verdict);
    const label = dropped.size && chosen.size ? text.whatIf.swap : dropped.size ? text.whatIf.dropOnly(dropped.size) : text.whatIf.enroll(granted.length);
    const offered = mayFor("enroll", id) && (dropped.size ? refused.length === 0 : granted.length > 0);
    return h("div", {},
      h("p", { class: refused.length ? (granted.length ? "verdict warn" : "verdict bad") : "verdict good" }, verdict),
      h("ul", { class: "rows" }, results.map(each => h("li", {}, h("div", { class: "row-main" },
        labelOf(each.course_id), " ",
        badge({ refused: "bad", enrolled: "good", waitlisted: "warn" }[each.outcome] ?? "quiet", text.whatIf.outcomes[each.outcome]),
        each.position ? ` ${text.whatIf.atPosition(each.position)}` : null,
        each.errors ? reasonList(each.errors) : null)))),
      offered ? h("button", { type: "button", class: "primary", onclick: event => make(event.target, granted) }, label) : null);
  }

  /** Make the change that the last dry run showed, without the courses that it refused. */
  async function make(button, granted) {
    button.disabled = true;
    const { path, body } = plan();
    if (body.course_ids) body.course_ids = granted.map(each => each.course_id);
    try {
      const made = await post(path, body);
      const sentence = made.results.map(each => `${codeOfId(each.course_id)}: ${text.whatIf.outcomes[each.outcome]}`).join(" · ");
      chosen.clear();
      dropped.clear();
      run += 1;
      result.replaceChildren(h("p", { class: "verdict good" }, text.whatIf.made));
      await changed(sentence);
      field.focus();
    } catch (error) {
      if (signal.aborted) return;
      run += 1;
      result.replaceChildren(refusal(error));
    }
  }

  const codeOfId = course => (chosen.get(course) ?? dropped.get(course))?.code ?? `#${course}`;

  const element = section(text.whatIf.title, { id: "what-if", lead: text.whatIf.lead },
    h("div", { class: "what-if" },
      h("div", { class: "stack" },
        h("div", {}, h("label", { for: "what-if-find" }, text.whatIf.find), field, found),
        h("div", {}, h("h3", {}, text.whatIf.chosen), chips),
        h("label", { class: "check" }, waitlist, " ", text.whatIf.waitlist),
        drops),
      h("div", {}, h("h3", {}, text.whatIf.result), result)));
  draw();
  return { element, changed: draw };
}
