// Feed: events as they come.

import { get } from "./api.js";
import { h } from "./dom.js";
import { formatExact, number } from "./format.js";
import { actorOf, difference, eventColumns, subjectOf } from "./events.js";
import { badge, problemBox, quiet, section, showState, table } from "./parts.js";
import { follow } from "./stream.js";
import { text } from "./text.js";

const KEPT = 200;

/** Return the types of events by their subject, from the API document. */
async function typesBySubject(signal) {
  const document = await get("openapi.json", {}, signal);
  const types = Object.keys(document.components.schemas.Event.discriminator.mapping);
  return Map.groupBy(types, type => type.split(".")[0]);
}

export async function show({ frame, values: [query], signal, go }) {
  const wanted = new URLSearchParams(query ?? "");
  const subjects = await typesBySubject(signal);
  const kinds = h("select", { id: "types" },
    h("option", { value: "" }, text.feed.every),
    [...subjects].map(([subject, types]) => h("optgroup", { label: text.feed.groups[subject] ?? subject },
      h("option", { value: types.join(",") }, `${text.feed.groups[subject] ?? subject}: ${text.feed.every.toLowerCase()}`),
      types.map(type => h("option", { value: type }, type)))));
  kinds.value = wanted.get("types") ?? "";
  const student = h("input", { id: "student", inputmode: "numeric", pattern: "[0-9]*", size: 8, value: wanted.get("student_id") ?? "" });
  const course = h("input", { id: "course", inputmode: "numeric", pattern: "[0-9]*", size: 8, value: wanted.get("course_id") ?? "" });
  const from = h("select", { id: "from" },
    h("option", { value: "" }, text.feed.now), h("option", { value: "beginning" }, text.feed.beginning));
  from.value = wanted.get("from") ?? "";
  const state = badge("quiet", text.connecting);
  const pause = h("button", { type: "button", "aria-pressed": "false" }, text.feed.pause);
  const rows = h("div", { class: "page feed-rows" }, quiet(text.feed.nothing));
  const count = h("p", { class: "count" });
  const detail = h("div", { class: "page" }, quiet(text.feed.choose));

  frame.append(
    h("div", { class: "title" }, h("div", {}, h("h1", {}, text.feed.title), h("p", { class: "lead" }, text.feed.lead)), state),
    h("form", { class: "card filters", onsubmit: event => {
      event.preventDefault();
      const values = { types: kinds.value, student_id: student.value.trim(), course_id: course.value.trim(), from: from.value };
      const set = new URLSearchParams(Object.entries(values).filter(([, value]) => value));
      go(`/feed?${set}`);
    } },
    h("div", {}, h("label", { for: "types" }, text.feed.types), kinds),
    h("div", {}, h("label", { for: "student" }, text.feed.student), student),
    h("div", {}, h("label", { for: "course" }, text.feed.course), course),
    h("div", {}, h("label", { for: "from" }, text.feed.from), from),
    h("button", { type: "submit", class: "primary" }, text.feed.apply),
    pause),
    h("div", { class: "columns feed" },
      section(text.course.events, { id: "events" }, rows, count),
      section(text.feed.choose, { id: "detail" }, detail)));
  frame.querySelector("#detail").textContent = `${text.feed.before} / ${text.feed.after}`;

  let kept = [];
  let held = 0;
  let paused = false;
  let chosen = null;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? text.feed.resume : text.feed.pause;
    if (!paused) draw();
  });
  const choose = event => {
    chosen = event.position;
    detail.replaceChildren(h("div", {},
      h("h3", {}, h("code", { class: "type" }, event.type), " ", h("span", { class: "quiet" }, text.feed.event(event.position))),
      h("p", {}, subjectOf(event)),
      h("p", { class: "quiet" }, `${formatExact(event.occurred_at)}, ${text.feed.by(actorOf(event))}`),
      event.reason ? h("p", {}, event.reason) : null,
      difference(event),
      h("p", { class: "quiet" }, `${text.feed.request} ${event.request_id}`)));
    // On a small screen it is below the events.
    detail.scrollIntoView({ block: "nearest" });
    for (const row of rows.querySelectorAll("tr")) row.classList.toggle("chosen", row.dataset.position === String(chosen));
  };
  const [first, type, ...others] = eventColumns();
  const columns = [first, { ...type, cell: event => h("button", { type: "button", class: "link", onclick: () => choose(event) },
    h("code", { class: "type" }, event.type)) }, ...others];
  const draw = () => {
    held = 0;
    const focused = rows.contains(document.activeElement) ? document.activeElement.closest("tr")?.dataset.position : null;
    rows.replaceChildren(kept.length
      ? table(text.feed.title, columns, kept, event => ({
        "data-position": event.position, class: event.position === chosen ? "chosen" : null,
      }))
      : quiet(text.feed.nothing));
    rows.querySelector(`tr[data-position="${focused}"] button`)?.focus();
    count.textContent = kept.length === KEPT ? text.feed.kept(KEPT) : text.feed.shown(kept.length);
  };
  const head = from.value === "beginning" ? { next: null } : await get("events/head", {}, signal);
  follow({
    after: head.next,
    types: wanted.get("types"), student_id: wanted.get("student_id"), course_id: wanted.get("course_id"),
  }, {
    signal,
    onState: each => showState(state, each),
    onEvents: events => {
      kept = [...events.toReversed(), ...kept].slice(0, KEPT);
      held += events.length;
      if (paused) count.textContent = text.feed.paused(held);
      else draw();
    },
    onProblem: error => {
      state.className = "badge bad";
      state.textContent = number(error.status);
      rows.replaceChildren(problemBox(error));
    },
  });
  return text.feed.title;
}
