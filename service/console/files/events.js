// Events as rows, and the difference between before and after.

import { h } from "./dom.js";
import { formatSecond } from "./format.js";
import { courseById, studentById, when } from "./parts.js";
import { text } from "./text.js";

/** Return who made a change. */
export const actorOf = event =>
  [event.actor ?? text.feed.nobody, event.on_behalf_of ? text.feed.onBehalfOf(event.on_behalf_of) : null].filter(Boolean).join(", ");

/** Return the subject of an event: the student and the course, as links. */
export function subjectOf(event, { student = true, course = true } = {}) {
  const parts = [
    student && event.student_id ? studentById(event.student_id) : null,
    course && event.course_id ? courseById(event.course_id) : null,
  ].filter(Boolean);
  return parts.flatMap((part, index) => (index ? [" · ", part] : [part]));
}

export const eventColumns = (of = {}) => [
  { head: text.table.when, class: "nowrap", cell: event => when(event.occurred_at, formatSecond) },
  { head: text.table.event, cell: event => h("code", { class: "type" }, event.type) },
  { head: text.table.student, cell: event => subjectOf(event, { ...of, course: false }), class: of.student === false ? "gone" : null },
  { head: text.table.course, cell: event => subjectOf(event, { ...of, student: false }), class: of.course === false ? "gone" : null },
  { head: text.table.who, class: "extra", cell: actorOf },
  { head: text.table.reason, class: "extra", cell: event => event.reason ?? "" },
].filter(each => each.class !== "gone");

const shown = value => (value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value));

/** Return the states before and after an event side by side; what changed is marked. */
export function difference(event) {
  const before = event.before ?? {};
  const after = event.after ?? {};
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  const changed = name => JSON.stringify(before[name]) !== JSON.stringify(after[name]);
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": text.feed.event(event.position) },
    h("table", { class: "difference" },
      h("thead", {}, h("tr", {}, [text.feed.member, text.feed.before, text.feed.after].map(each => h("th", { scope: "col" }, each)))),
      h("tbody", {},
        names.length ? null : h("tr", {}, h("td", { colspan: "3" }, text.feed.empty)),
        names.map(name => h("tr", { class: changed(name) ? "changed" : null },
          h("th", { scope: "row" }, name, changed(name) ? h("span", { class: "hidden-text" }, ` (${text.feed.changed})`) : null),
          h("td", {}, h("code", {}, event.before === null ? "–" : shown(before[name]))),
          h("td", {}, h("code", {}, event.after === null ? "–" : shown(after[name]))))))));
}
