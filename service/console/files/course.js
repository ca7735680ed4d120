// A course: its seats, its week, its waitlist in order with what blocks each student, its roster, refusals and events.

import { get, may, pages } from "./api.js";
import { debounced, h } from "./dom.js";
import { credits, dayName, formatDay, formatInstant, number } from "./format.js";
import { eventColumns } from "./events.js";
import {
  badge, codeOf, courseById, figure, fill, fullNameOf, link, paged, problemBox, quiet, reasonList, section, showState, statusBadge, studentById, studentLink, table, when,
} from "./parts.js";
import { legend, seatBar } from "./seats.js";
import { follow } from "./stream.js";
import { text } from "./text.js";
import { detailsOf, week } from "./week.js";

const KEPT_EVENTS = 50;
const STUDENTS_PER_PAGE = 25;
const REFRESH_MILLISECONDS = 200;

export async function show({ frame, values: [id], signal }) {
  let course = await get(`courses/${id}`, {}, signal);
  const name = codeOf(course);
  const term = course.term_id === null ? null : await get(`terms/${course.term_id}`, {}, signal);
  const seats = h("div", { class: "seats-summary" });
  const message = h("div", { class: "news", role: "status" });
  const roster = rosterOf(() => course, signal);
  const waitlist = waitlistOf(() => course, signal);
  const refusals = refusalsOf(course, signal);
  const requirements = h("div", { class: "page short" });
  const instructors = h("div", { class: "page short" });
  const reservations = h("div", {});

  frame.append(
    h("div", { class: "title" },
      h("div", {},
        h("h1", {}, h("span", { class: "code" }, name), " ", course.title),
        h("p", { class: "lead" }, term === null ? text.noTerm : link(`/terms/${term.id}`, term.name), " · ",
          text.course.credits(credits(course.credits)))),
      h("div", { class: "tools" },
        statusBadge(course.status),
        h("button", { type: "button", onclick: event => saveRoster(course, event.target) }, text.course.csv),
        h("button", { type: "button", onclick: () => printRoster(course, frame) }, text.course.print))),
    message,
    h("section", { class: "card", "aria-label": text.table.seats }, seats),
    h("div", { class: "columns even" },
      section(text.course.waitlist, { id: "waitlist" }, waitlist),
      section(text.course.roster, { id: "roster" }, roster)),
    h("div", { class: "columns even" },
      section(text.course.meetings, { id: "week" }, meetings(course)),
      h("div", { class: "stack" },
        section(text.course.requirements, { id: "requirements" }, requirements),
        section(text.course.instructors, { id: "instructors" }, instructors),
        reservations)),
    section(text.course.refusals, { id: "refusals" }, refusals));

  const drawSeats = () => seats.replaceChildren(h("div", { class: "seats-large" }, seatBar(course, { numbers: false }), legend()),
    h("dl", { class: "figures" },
      figure(text.course.capacity, course.capacity ?? text.course.unlimited),
      figure(text.home.figures.taken, course.seats_taken),
      figure(text.home.figures.free, course.seats_free ?? text.course.unlimited),
      figure(text.table.waitlisted, course.waitlisted),
      figure(text.course.waitlistCapacity, course.waitlist_capacity === 0 ? text.course.noWaitlist : course.waitlist_capacity ?? text.course.unlimited)));
  drawSeats();
  fill(requirements, signal, async () => requirementsOf(await get(`courses/${id}/requirements`, {}, signal)));
  fill(instructors, signal, async () => teachers((await get(`courses/${id}/instructors`, {}, signal)).instructors));
  get(`courses/${id}/reservations`, {}, signal).then(found => {
    if (found.reservations?.length) reservations.replaceChildren(section(text.course.reservations, { id: "reservations" }, reserved(found)));
  }).catch(() => {});

  if (may("events")) {
    const events = h("div", { class: "page short" }, quiet(text.course.noEvents));
    const state = badge("quiet", text.connecting);
    frame.append(section(text.course.events, { id: "events", lead: text.course.eventsLead, tools: [state, link(`/feed?course_id=${id}&from=beginning`, text.course.allEvents)] }, events));
    const kept = [];
    const refresh = debounced(REFRESH_MILLISECONDS, async () => {
      try {
        course = await get(`courses/${id}`, {}, signal);
        drawSeats();
        await Promise.all([roster.reload(), waitlist.reload()]);
      } catch (error) {
        if (!signal.aborted) console.error(error);
      }
    });
    const head = await get("events/head", {}, signal);
    follow({ after: head.next, course_id: id }, {
      signal,
      onEvents: found => {
        kept.unshift(...found.toReversed());
        kept.length = Math.min(kept.length, KEPT_EVENTS);
        events.replaceChildren(table(text.course.events, eventColumns({ course: false }), kept));
        tell(found.findLast(each => each.type === "enrollment.promoted"), message);
        refresh();
      },
      onState: each => showState(state, each),
      onProblem: error => events.replaceChildren(problemBox(error)),
    });
  }
  return name;
}

/** Say that a student was promoted. */
function tell(event, message) {
  if (!event) return;
  message.replaceChildren(h("p", {}, studentById(event.student_id), " ", text.course.promoted));
}

function meetings(course) {
  const picture = week([{ label: codeOf(course), kind: "held", meetings: course.meetings }]);
  if (picture === null) return quiet(text.course.noMeetings);
  const special = course.meetings.filter(each => detailsOf(each) !== null);
  return [picture, special.length
    ? h("ul", { class: "plain" }, special.map(each => h("li", {}, `${dayName(each.day, true)} ${each.start}–${each.end}: ${detailsOf(each)}`)))
    : null];
}

function requirementsOf({ groups }) {
  if (!groups.length) return quiet(text.course.noRequirements);
  return h("dl", { class: "pairs" }, groups.map(group => [
    h("dt", {}, text.course.kinds[group.kind]),
    h("dd", {}, group.any_of.flatMap((code, index) => [index ? ` ${text.course.or} ` : null, h("b", { class: "code" }, code)]),
      group.min_grade ? ` ${text.course.minGrade(group.min_grade)}` : null,
      group.in_progress ? ` ${text.course.inProgress}` : null)]));
}

function teachers(instructors) {
  if (!instructors.length) return quiet(text.none);
  return h("ul", { class: "plain" }, instructors.map(({ instructor, primary }) =>
    h("li", {}, fullNameOf(instructor), primary ? ` (${text.course.primary})` : null)));
}

function reserved({ reservations }) {
  return h("dl", { class: "pairs" }, reservations.map(each => [
    h("dt", {}, each.group),
    h("dd", {}, text.course.reserved(each.seats_taken, each.seats), each.until ? `, ${text.course.until(formatInstant(each.until))}` : null)]));
}

function waitlistOf(course, signal) {
  return paged({
    signal,
    label: text.course.waitlist,
    empty: text.course.noWaiting,
    total: () => course().waitlisted,
    load: cursor => get(`courses/${course().id}/students`, { status: "waitlisted", limit: STUDENTS_PER_PAGE, cursor }, signal),
    show: items => table(text.course.waitlist, [
      { head: text.table.position, class: "place", cell: each => number(each.position) },
      { head: text.table.student, class: "nowrap", plain: true, cell: each => studentLink(each.student) },
      { head: text.table.reasons, cell: each => [
        each.blocked_by?.length ? reasonList(each.blocked_by)
          : h("span", { class: "quiet" }, course().seats_free === 0 ? text.home.noSeat : text.home.next),
        each.swap_drops?.length ? h("p", { class: "quiet" }, text.course.swap, each.swap_drops.map(id => [" ", courseById(id)])) : null,
      ] },
      { head: text.table.since, class: "nowrap extra", cell: each => when(each.joined_at) },
    ], items, each => ({ class: each.blocked_by?.length ? "blocked" : null })),
  });
}

function rosterOf(course, signal) {
  return paged({
    signal,
    label: text.course.roster,
    empty: text.course.noRoster,
    load: cursor => get(`courses/${course().id}/students`, { limit: STUDENTS_PER_PAGE, cursor }, signal),
    show: items => table(text.course.roster, [
      { head: text.table.student, cell: each => studentLink(each.student) },
      { head: text.table.number, class: "nowrap", cell: each => each.student.external_id ?? "" },
      { head: text.table.since, class: "nowrap extra", cell: each => when(each.joined_at) },
    ], items),
  });
}

function refusalsOf(course, signal) {
  return paged({
    signal,
    label: text.course.refusals,
    empty: text.course.noRefusals,
    load: cursor => get(`courses/${course.id}/refusals`, { limit: 20, cursor }, signal),
    show: items => table(text.course.refusals, [
      { head: text.table.student, cell: each => studentById(each.student_id) },
      { head: text.table.when, class: "nowrap", cell: each => when(each.occurred_at) },
      { head: text.table.action, cell: each => text.student.actions[each.action] },
      { head: text.table.reasons, cell: each => (each.reasons.length ? reasonList(each.reasons) : quiet(text.student.otherCourses)) },
    ], items),
  });
}

/** Return all enrolled students of a course. */
async function readRoster(course) {
  const found = [];
  for await (const items of pages(`courses/${course.id}/students`, {})) found.push(...items);
  return found;
}

const fields = each => [
  each.student.external_id, each.student.family_name, each.student.given_name, each.student.preferred_name, each.student.email, each.joined_at,
];

/** Quote a field; a spreadsheet would run one that begins like a formula. */
function quoted(value) {
  const plain = value ?? "";
  const safe = /^[=+\-@\t]/.test(plain) ? `'${plain}` : plain;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** Save the whole roster as CSV (RFC 4180), with a mark so that spreadsheets read it as UTF-8. */
async function saveRoster(course, button) {
  button.disabled = true;
  try {
    const rows = [text.course.columns, ...(await readRoster(course)).map(fields)];
    const csv = `\ufeff${rows.map(row => row.map(quoted).join(",")).join("\r\n")}\r\n`;
    const file = URL.createObjectURL(new Blob([csv], { type: "text/csv;charset=utf-8" }));
    h("a", { href: file, download: text.course.file(codeOf(course)) }).click();
    setTimeout(() => URL.revokeObjectURL(file), 1000);
  } finally {
    button.disabled = false;
  }
}

/** Print the whole roster, and nothing else. */
async function printRoster(course, frame) {
  const rows = await readRoster(course);
  const sheet = h("div", { class: "print-only" },
    h("h1", {}, text.course.rosterOf(codeOf(course), formatDay(new Date().toISOString().slice(0, 10)))),
    h("p", {}, course.title),
    h("table", {},
      h("thead", {}, h("tr", {}, text.course.columns.map(each => h("th", { scope: "col" }, each)))),
      h("tbody", {}, rows.map(row => h("tr", {}, fields(row).map((each, index) =>
        h("td", {}, index === 5 ? formatInstant(each) : each ?? "")))))));
  frame.append(sheet);
  document.body.classList.add("printing");
  addEventListener("afterprint", () => {
    document.body.classList.remove("printing");
    sheet.remove();
  }, { once: true });
  window.print();
}

