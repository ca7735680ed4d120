// Home: how full a term is, what happens right now, and which waitlists do not move.

import { get, may, pages, send } from "./api.js";
import { h, repeat, s, unseen } from "./dom.js";
import { credits, formatClock, formatDay, formatInstant, number, percent } from "./format.js";
import { badge, courseLink, figure, fill, paged, problemBox, quiet, reasonList, section, studentLink, table } from "./parts.js";
import { legend, seatBar } from "./seats.js";
import { follow } from "./stream.js";
import { text } from "./text.js";

const SECONDS = 60;
const REFUSALS_MILLISECONDS = 2000;
const OVERVIEW_MILLISECONDS = 10000;
const SHOWN_WAITLISTS = 10;
const KINDS = {
  enrolled: "enrollment.enrolled", promoted: "enrollment.promoted", waitlistedNow: "enrollment.waitlisted", dropped: "enrollment.dropped",
};
const TITLES = new Map();

export async function show({ frame, values: [id], signal, go }) {
  const terms = [];
  for await (const items of pages("terms", {}, signal)) terms.push(...items);
  if (!terms.length) {
    frame.append(h("h1", {}, text.home.title), quiet(text.home.noTerms));
    return text.home.title;
  }
  const term = terms.find(each => each.id === Number(id)) ?? current(terms);
  const choice = h("select", { id: "term", onchange: event => go(`/terms/${event.target.value}`) },
    terms.toSorted((one, other) => other.starts_on.localeCompare(one.starts_on)).map(each =>
      h("option", { value: each.id, selected: each.id === term.id }, `${each.code} · ${each.name}`)));
  const state = h("p", { class: "pulse", role: "status" }, h("span", { class: "dot" }), h("span", {}, text.loading));
  const summary = h("div", { class: "summary" });
  const stuck = h("div", { class: "page short" });
  const longest = h("div", { class: "page waitlists" });
  const tenths = h("div", { class: "page histogram-place" });
  const refusals = h("div", { class: "page refusals-place" });
  const now = h("div", { class: "tiles" });

  frame.append(
    h("div", { class: "title" },
      h("div", {}, h("h1", {}, text.home.title), h("p", { class: "lead" }, deadlines(term))),
      h("div", { class: "tools" }, h("label", { for: "term", class: "hidden-text" }, text.home.term), choice, state)),
    h("section", { class: "card", "aria-label": term.name }, summary),
    h("div", { class: "columns" },
      section(text.home.now, { lead: may("events") ? text.home.nowLead : text.noScope("events"), id: "now" }, now),
      section(text.home.refusals, { lead: text.home.refusalsLead, id: "refusals" }, refusals)),
    h("div", { class: "columns" },
      section(text.home.stuck, { lead: text.home.stuckLead, id: "stuck" }, stuck),
      section(text.home.fill, { lead: text.home.fillLead, id: "fill" }, tenths)),
    section(text.home.longest, { lead: text.home.longestLead, id: "longest", tools: [legend()] }, longest),
    courses(term, signal));

  const overview = async () => {
    const found = await get(`terms/${term.id}/overview`, {}, signal);
    summary.replaceChildren(figures(found));
    tenths.replaceChildren(histogram(found.fill));
    return found;
  };
  const lists = async found => {
    await Promise.all([
      fill(stuck, signal, () => waitlists(found.blocked_waitlists, found.blocked_waitlists.length, signal, text.home.noStuck, false)),
      fill(longest, signal, () => waitlists(found.longest_waitlists, found.waitlisted_courses, signal, text.home.noWaitlists, true)),
    ]);
    // What is below stays where it is when a waitlist leaves the table.
    for (const place of [stuck, longest]) place.style.setProperty("min-height", `${place.offsetHeight}px`);
  };
  overview().then(lists).catch(error => { if (!signal.aborted) summary.replaceChildren(problemBox(error)); });
  repeat(OVERVIEW_MILLISECONDS, signal, () => overview().then(lists).catch(() => {}));
  live(now, refusals, term, signal);
  pulse(state, signal);
  return term.name;
}

/** Return the term in which enrollment is open, or else the one of today, or else the last one. */
function current(terms) {
  const at = new Date().toISOString();
  const today = at.slice(0, 10);
  const sorted = terms.toSorted((one, other) => one.starts_on.localeCompare(other.starts_on));
  const isOpen = each => each.enroll_from && each.enroll_from <= at && !(each.enroll_until && each.enroll_until <= at);
  return sorted.findLast(isOpen) ?? sorted.find(each => each.starts_on <= today && today <= each.ends_on) ?? sorted.at(-1);
}

function deadlines(term) {
  const at = new Date();
  const parts = [text.home.dates(formatDay(term.starts_on), formatDay(term.ends_on))];
  const { enroll_from: from, enroll_until: until } = term;
  if (from && new Date(from) > at) parts.push(text.home.opensAt(formatInstant(from)));
  else if (until && new Date(until) <= at) parts.push(text.home.closedAt(formatInstant(until)));
  else parts.push(until ? text.home.closesAt(formatInstant(until)) : text.home.openSince);
  if (term.drop_until) parts.push(text.home.dropUntil(formatInstant(term.drop_until)));
  if (term.withdraw_until) parts.push(text.home.withdrawUntil(formatInstant(term.withdraw_until)));
  return parts.join(" · ");
}

function figures(found) {
  const names = text.home.figures;
  const notes = [
    found.cancelled ? text.home.cancelled(found.cancelled) : null,
    found.unlimited ? text.home.unlimited(found.unlimited) : null,
  ].filter(Boolean).join(", ");
  return h("dl", { class: "figures" },
    figure(names.courses, found.courses, notes || null),
    figure(names.seats, found.seats),
    figure(names.taken, found.seats_taken, found.seats ? percent(found.seats_taken / found.seats) : null),
    figure(names.free, found.seats_free),
    figure(names.waitlisted, found.waitlisted, text.home.inCourses(found.waitlisted_courses)));
}

/** Return how many courses are how full, as bars. */
function histogram(tenths) {
  const most = Math.max(...tenths, 1);
  return h("ul", { class: "histogram" }, tenths.map((count, tenth) => {
    const name = text.home.fillBar(tenth * 10, count);
    return h("li", { title: name, class: tenth === 10 ? "full" : null },
      unseen(name),
      h("span", { class: "value", "aria-hidden": "true" }, count ? number(count) : ""),
      h("span", { class: "column", "aria-hidden": "true", style: { height: `${(count / most) * 100}px` } }),
      h("span", { class: "axis", "aria-hidden": "true" }, tenth === 10 ? text.home.full : `${tenth * 10}`));
  }));
}

/** Return courses with a waitlist, and why the first student of each waits. */
async function waitlists(courses, total, signal, empty, withSeats) {
  if (!courses.length) return quiet(empty);
  const some = courses.slice(0, SHOWN_WAITLISTS);
  const firsts = await Promise.all(some.map(course =>
    get(`courses/${course.id}/students`, { status: "waitlisted", limit: 1 }, signal).then(page => page.items[0] ?? null)));
  const rows = some.map((course, index) => ({ course, first: firsts[index] }));
  const columns = [
    { head: text.table.course, width: "24%", cell: ({ course }) => [courseLink(course), " ", h("span", { class: "title-of" }, course.title)] },
    withSeats ? { head: text.table.seats, width: "28%", class: "bar-cell", cell: ({ course }) => seatBar(course) }
      : { head: text.home.figures.free, width: "8%", class: "number", cell: ({ course }) => (course.seats_free === null ? text.fill.unlimited : number(course.seats_free)) },
    withSeats ? null : { head: text.table.waitlisted, width: "12%", class: "number", cell: ({ course }) => number(course.waitlisted) },
    { head: text.home.first, width: "16%", cell: ({ first }) => (first === null ? "–" : studentLink(first.student)) },
    { head: text.home.why, width: withSeats ? "32%" : "40%", cell: ({ course, first }) => {
      if (first?.blocked_by?.length) return reasonList(first.blocked_by);
      return h("span", { class: "quiet" }, course.seats_free === 0 ? text.home.noSeat : text.home.next);
    } },
  ].filter(Boolean);
  return [
    table(empty === text.home.noStuck ? text.home.stuck : text.home.longest, columns, rows),
    h("p", { class: "count" }, total > some.length ? text.home.firstOf(some.length, total) : text.list.all(some.length)),
  ];
}

/** Return all courses of the term, page by page. */
function courses(term, signal) {
  let only = null;
  const list = paged({
    signal,
    label: text.home.courses,
    empty: text.none,
    load: cursor => get("courses", { term_id: term.id, sort: "code", has_free_seats: only, cursor }, signal),
    show: items => table(text.home.courses, [
      { head: text.table.course, cell: courseLink },
      { head: text.table.title, plain: true, cell: course => [course.title, course.status === "open" ? null : [" ", badge("bad", text.status.cancelled)]] },
      { head: text.table.credits, class: "number extra", cell: course => credits(course.credits) },
      { head: text.table.seats, class: "bar-cell", cell: course => seatBar(course) },
    ], items),
  });
  const filter = h("select", { id: "only", onchange: event => {
    only = event.target.value || null;
    list.restart();
  } },
  h("option", { value: "" }, text.home.every),
  h("option", { value: "true" }, text.home.onlyFree),
  h("option", { value: "false" }, text.home.onlyFull));
  const tools = [legend(), h("label", { for: "only" }, text.home.filter), filter];
  return section(text.home.courses, { id: "courses", tools }, list);
}

/** Show what happens each second, and the refusals of the last hour. */
function live(place, refusals, term, signal) {
  const seconds = new Map();
  const start = Math.floor(Date.now() / 1000);
  const note = (kind, second, count) => {
    if (!seconds.has(second)) seconds.set(second, {});
    const found = seconds.get(second);
    found[kind] = (found[kind] ?? 0) + count;
  };
  const kinds = may("events") ? [...Object.keys(KINDS), "refused"] : ["refused"];
  const tiles = new Map(kinds.map(kind => [kind, tile(kind)]));
  place.replaceChildren(...[...tiles.values()].map(each => each.element));

  const draw = () => {
    const last = Math.floor(Date.now() / 1000);
    for (const second of seconds.keys()) if (second <= last - SECONDS) seconds.delete(second);
    for (const [kind, its] of tiles) {
      its.draw(Array.from({ length: SECONDS }, (_, index) => seconds.get(last - SECONDS + 1 + index)?.[kind] ?? 0));
    }
  };
  const countRefusals = async () => {
    try {
      const [minute, hour] = await Promise.all([
        get("refusals/counts", { term_id: term.id, seconds: SECONDS, interval: 1 }, signal),
        get("refusals/counts", { term_id: term.id }, signal),
      ]);
      const skew = Date.now() - Date.parse(minute.until);
      for (const its of seconds.values()) delete its.refused;
      for (const each of minute.items) note("refused", Math.floor((Date.parse(each.at) + skew) / 1000), each.count);
      refusals.replaceChildren(await byCode(hour, minute));
    } catch (error) {
      if (!signal.aborted) refusals.replaceChildren(problemBox(error));
    }
  };
  countRefusals().then(draw);
  repeat(REFUSALS_MILLISECONDS, signal, countRefusals);
  repeat(1000, signal, draw);
  if (!may("events")) return;
  const kindOf = Object.fromEntries(Object.entries(KINDS).map(([kind, type]) => [type, kind]));
  get("events/head", {}, signal).then(head => follow({ after: head.next, term_id: term.id, types: Object.values(KINDS).join(",") }, {
    signal,
    onEvents: events => {
      const second = Math.max(Math.floor(Date.now() / 1000), start);
      for (const event of events) note(kindOf[event.type], second, 1);
      draw();
    },
    onProblem: error => place.replaceChildren(problemBox(error)),
  })).catch(error => { if (!signal.aborted) place.replaceChildren(problemBox(error)); });
}

/** Return a figure with the bars of the last minute. */
function tile(kind) {
  const bars = Array.from({ length: SECONDS }, (_, index) => s("rect", { x: index * 4, width: 3, y: 32, height: 0 }));
  const value = h("b", {}, "0");
  const label = unseen("");
  const name = text.home[kind];
  const element = h("div", { class: `tile ${kind}` },
    label,
    h("span", { class: "tile-name", "aria-hidden": "true" }, name),
    h("span", { class: "tile-value", "aria-hidden": "true" }, value, h("small", {}, text.home.perMinute)),
    s("svg", { viewBox: `0 0 ${SECONDS * 4} 32`, preserveAspectRatio: "none", "aria-hidden": "true" }, bars));
  return {
    element,
    draw(counts) {
      const total = counts.reduce((sum, each) => sum + each, 0);
      const most = Math.max(...counts, 4);
      value.textContent = number(total);
      label.textContent = text.home.minute(name, total);
      counts.forEach((count, index) => {
        const height = (count / most) * 32;
        bars[index].setAttribute("y", 32 - height);
        bars[index].setAttribute("height", height);
      });
    },
  };
}

/** Return the refusals of an hour and of a minute by code, with the title that the API has for each. */
async function byCode(counts, minute) {
  if (!counts.items.length) return quiet(text.home.noRefusals);
  const found = counts.items.toSorted((one, other) => other.count - one.count);
  const most = found[0].count;
  const lately = code => minute.items.filter(each => each.code === code).reduce((sum, each) => sum + each.count, 0);
  await Promise.all(found.map(async each => {
    if (!TITLES.has(each.code)) TITLES.set(each.code, await get(`problems/${each.code}`));
  }));
  const isCut = Date.parse(counts.until) - Date.parse(counts.since) < 3600 * 1000 - 1000;
  return h("div", {},
    h("ul", { class: "codes" }, found.map(each => h("li", { title: TITLES.get(each.code).description },
      h("span", {}, TITLES.get(each.code).title),
      h("span", { class: "code-bar", "aria-hidden": "true" }, h("i", { style: { width: `${(each.count / most) * 100}%` } })),
      h("b", {}, number(each.count)),
      h("small", { title: text.home.perMinute }, lately(each.code) ? [unseen(text.home.perMinute), ` +${number(lately(each.code))}`] : null)))),
    isCut ? quiet(text.home.refusalsSince(formatClock(counts.since))) : null);
}

/** Show whether the service is ready, and how long it takes to answer. */
function pulse(place, signal) {
  const [dot, words] = place.children;
  const look = async () => {
    const started = performance.now();
    try {
      await send("GET", "health/ready", { signal });
      const milliseconds = Math.round(performance.now() - started);
      dot.className = "dot good";
      words.textContent = `${text.home.ready} · ${text.home.answered(milliseconds)}`;
    } catch (error) {
      if (signal.aborted) return;
      dot.className = "dot bad";
      words.textContent = error.detail ?? String(error);
    }
  };
  place.removeAttribute("role");
  look();
  repeat(5000, signal, look);
}

