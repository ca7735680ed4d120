// A student: the week, the courses and credits of each term, waitlist places, holds, overrides, refusals, history and what if.

import { get, may, mayFor, PAGE_SIZE, remove } from "./api.js";
import { h } from "./dom.js";
import { credits, formatInstant, number } from "./format.js";
import { eventColumns } from "./events.js";
import {
  badge, courseById, courseLink, fullNameOf, link, paged, problemBox, quiet, reasonList, section, statusBadge, table, when,
} from "./parts.js";
import { text } from "./text.js";
import { week } from "./week.js";
import { whatIf } from "./whatif.js";

const PAST = "completed,dropped,withdrawn";

export async function show({ frame, values: [id], signal }) {
  let overview = await get(`students/${id}/overview`, {}, signal);
  const { student } = overview;
  const name = fullNameOf(student);
  const picture = h("div", { class: "page" });
  const held = h("div", {});
  const places = h("div", {});
  const side = h("div", { class: "stack" });
  const message = h("div", { class: "news", role: "status" });
  const past = earlier(student, signal);
  const refusals = refusalsOf(student, signal);

  /** Read everything again after a change. */
  const changed = async sentence => {
    overview = await get(`students/${id}/overview`, {}, signal);
    message.replaceChildren(h("p", {}, sentence));
    await draw();
    await Promise.all([past.restart(), refusals.restart()]);
    trial?.changed();
  };
  const meetings = new Map();
  const drawWeek = async (planned = [], dropping = []) => {
    const ids = overview.courses.map(each => each.course_id).filter(each => !meetings.has(each));
    if (ids.length && may("read")) {
      for (let start = 0; start < ids.length; start += 100) {
        const page = await get("courses", { id: ids.slice(start, start + 100).join(","), limit: 100 }, signal);
        for (const course of page.items) meetings.set(course.id, course);
      }
    }
    const leaving = new Set(dropping);
    const entries = overview.courses.filter(each => meetings.has(each.course_id)).map(each => ({
      label: meetings.get(each.course_id).code,
      kind: leaving.has(each.course_id) ? "leaving" : each.status === "waitlisted" ? "waiting" : "held",
      meetings: meetings.get(each.course_id).meetings,
      to: `/courses/${each.course_id}`,
    }));
    entries.push(...planned.map(course => ({
      label: course.code, kind: "planned", meetings: course.meetings, to: `/courses/${course.id}`,
    })));
    const drawn = week(entries);
    picture.replaceChildren(drawn ?? quiet(text.student.noWeek));
  };
  const draw = async () => {
    await drawWeek();
    held.replaceChildren(...coursesOf(overview, changed));
    places.replaceChildren(placesOf(overview, changed));
    side.replaceChildren(holdsOf(overview), overridesOf(overview));
  };
  const trial = may("read") ? whatIf({ id, overview: () => overview, signal, preview: drawWeek, changed }) : null;

  frame.append(
    h("div", { class: "title" },
      h("div", {}, h("h1", {}, name), facts(student)),
      h("div", { class: "tools" },
        overview.holds.length ? badge("bad", text.student.holds) : null,
        may("events") ? link(`/feed?student_id=${id}&from=beginning`, text.course.allEvents) : null)),
    message,
    h("div", { class: "columns even" },
      section(text.student.week, { id: "week" }, picture),
      h("div", { class: "stack" },
        section(text.student.courses, { id: "courses" }, held),
        section(text.student.waitlist, { id: "waitlist" }, places))),
    ...(trial === null ? [] : [trial.element]),
    h("div", { class: "columns even" },
      section(text.student.refusals, { id: "refusals" }, refusals),
      side),
    section(text.student.earlier, { id: "earlier" }, past));
  await draw();
  return name;
}

function facts(student) {
  const pairs = [
    [text.student.number, student.external_id], [text.student.email, student.email], [text.student.groups, student.groups.join(", ")],
    [text.student.limit, student.max_credits === null ? null : credits(student.max_credits)], [text.student.id, String(student.id)],
  ].filter(([, value]) => value);
  return h("dl", { class: "facts" }, pairs.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value))));
}

/** Return the courses by term, with the credits of each term against its limit. */
function coursesOf(overview, changed) {
  const seats = overview.courses.filter(each => each.status === "enrolled");
  const parts = overview.terms.map(term => ({
    title: term.name, term, items: seats.filter(each => each.course.term_id === term.term_id),
  })).filter(({ items, term }) => items.length || term.waitlisted_credits);
  const others = seats.filter(each => each.course.term_id === null);
  if (others.length) parts.push({ title: text.noTerm, term: null, items: others });
  if (!parts.length) return [quiet(text.student.noCourses)];
  return parts.map(({ title, term, items }) => h("div", { class: "term" },
    h("div", { class: "term-head" }, h("h3", {}, title), term === null ? null : creditBar(term)),
    items.length ? h("ul", { class: "rows" }, items.map(each => h("li", {},
      h("div", { class: "row-main" }, courseLink(each.course), " ", each.course.title,
        h("span", { class: "quiet" }, ` · ${text.course.credits(credits(each.course.credits))} · `, when(each.joined_at)),
        each.swap_adds?.length ? h("span", { class: "quiet" }, ` ${text.status.kept} `, each.swap_adds.map(courseById)) : null),
      h("div", { class: "row-tools" }, leave(overview.student, each, changed)),
      history(overview.student, each)))) : quiet(text.student.noCourses)));
}

function creditBar(term) {
  const { credits: taken, max_credits: limit, waitlisted_credits: waiting } = term;
  return h("div", { class: "credits" },
    limit === null ? null : h("span", { class: "credit-bar", "aria-hidden": "true" },
      h("i", { class: taken > limit ? "over" : null, style: { width: `${Math.min((taken / (limit || 1)) * 100, 100)}%` } })),
    h("span", {}, text.student.credits(credits(taken), limit === null ? null : credits(limit)),
      waiting ? h("span", { class: "quiet" }, ` · ${text.student.waitlistedCredits(credits(waiting))}`) : null));
}

/** Return the waitlist places with their positions and what blocks them. */
function placesOf(overview, changed) {
  const found = overview.courses.filter(each => each.status === "waitlisted");
  if (!found.length) return quiet(text.student.noPlaces);
  return h("ul", { class: "rows" }, found.map(each => h("li", {},
    h("div", { class: "row-main" }, courseLink(each.course), " ", each.course.title, " ", badge("warn", text.position(number(each.position))),
      each.swap_drops?.length ? h("p", { class: "quiet" }, `${text.student.swapDrops} `, each.swap_drops.map(courseById)) : null,
      each.blocked_by?.length ? reasonList(each.blocked_by) : h("p", { class: "quiet" }, text.student.nextSeat)),
    h("div", { class: "row-tools" }, leave(overview.student, each, changed)),
    history(overview.student, each))));
}

/** Return the button that drops a course after a second click, if the token may. */
function leave(student, item, changed) {
  if (!mayFor("enroll", student.id)) return null;
  const waits = item.status === "waitlisted";
  const code = item.course.code;
  const place = h("div", { class: "confirm" });
  const rest = () => place.replaceChildren(h("button", {
    type: "button", "aria-label": waits ? text.student.leaveOf(code) : text.student.dropOf(code), onclick: ask,
  }, waits ? text.student.leave : text.student.drop));
  const ask = () => {
    const reason = h("input", { "aria-label": text.student.reason, placeholder: text.student.reason, maxlength: "200" });
    const yes = h("button", { type: "button", class: "danger", onclick: async () => {
      yes.disabled = true;
      try {
        const made = await remove(`students/${student.id}/courses/${item.course_id}`, { reason: reason.value.trim() });
        await changed(text.student.done(text.status[made.outcome] ?? made.outcome, code));
      } catch (error) {
        place.append(problemBox(error));
        yes.disabled = false;
      }
    } }, text.student.yes);
    const no = h("button", { type: "button", onclick: () => { rest(); place.querySelector("button").focus(); } }, text.student.no);
    place.replaceChildren(h("span", {}, text.student.sure(code, waits ? text.student.leave : text.student.drop)), reason, yes, no);
    yes.focus();
  };
  rest();
  return place;
}

/** Return the history of a student in a course, read when it is opened. */
function history(student, item) {
  const place = h("div", { class: "page short" });
  return h("details", { class: "history", ontoggle: event => {
    if (!event.target.open || place.childNodes.length) return;
    const never = new AbortController().signal;
    place.append(paged({
      signal: never,
      label: text.student.showHistory(item.course.code),
      empty: text.none,
      load: cursor => get(`students/${student.id}/courses/${item.course_id}/history`, { limit: PAGE_SIZE, cursor }),
      show: items => table(text.student.showHistory(item.course.code), eventColumns({ student: false, course: false }), items),
    }));
  } }, h("summary", {}, text.student.history, h("span", { class: "hidden-text" }, ` ${item.course.code}`)), place);
}

function holdsOf(overview) {
  const { holds } = overview;
  return section(text.student.holds, { id: "holds" }, !holds.length ? quiet(text.student.noHolds)
    : h("ul", { class: "rows" }, holds.map(each => h("li", {}, h("div", { class: "row-main" },
      h("strong", {}, each.reason), " ", badge("bad", text.student.blocking(each.blocks.map(what => text.student.blocks[what]).join(", "))),
      h("p", { class: "quiet" }, [each.from ? text.student.from(formatInstant(each.from)) : null,
        each.until ? text.student.until(formatInstant(each.until)) : text.student.untilEnded].filter(Boolean).join(" ")))))));
}

function overridesOf(overview) {
  const { overrides } = overview;
  return section(text.student.overrides, { id: "overrides" }, !overrides.length ? quiet(text.student.noOverrides)
    : h("ul", { class: "rows" }, overrides.map(each => h("li", {}, h("div", { class: "row-main" },
      courseById(each.course_id), " ", h("code", { class: "rule" }, each.rule), " ", each.reason,
      h("p", { class: "quiet" }, [text.student.overrideBy(each.author), each.expires_at ? text.student.until(formatInstant(each.expires_at)) : null]
        .filter(Boolean).join(", ")))))));
}

function refusalsOf(student, signal) {
  return paged({
    signal,
    label: text.student.refusals,
    empty: text.student.noRefusals,
    load: cursor => get(`students/${student.id}/refusals`, { limit: 20, cursor }, signal),
    show: items => h("ul", { class: "rows" }, items.map(each => h("li", {}, h("div", { class: "row-main" },
      courseById(each.course_id), " ", badge("quiet", text.student.actions[each.action]), " ",
      h("span", { class: "quiet" }, when(each.occurred_at), each.actor ? ` · ${each.actor}` : ""),
      each.reasons.length ? reasonList(each.reasons) : h("p", { class: "quiet" }, text.student.otherCourses))))),
  });
}

function earlier(student, signal) {
  return paged({
    signal,
    label: text.student.earlier,
    empty: text.student.noEarlier,
    load: cursor => get(`students/${student.id}/courses`, { status: PAST, limit: PAGE_SIZE, cursor }, signal),
    show: items => h("ul", { class: "rows" }, items.map(each => h("li", {},
      h("div", { class: "row-main" }, courseLink(each.course), " ", each.course.title, " ", statusBadge(each.status),
        each.passed === null ? null : [" ", badge(each.passed ? "good" : "bad", each.passed ? text.student.passed : text.student.failed)],
        each.grade ? [" ", h("b", {}, each.grade)] : null),
      history(student, each)))),
  });
}

