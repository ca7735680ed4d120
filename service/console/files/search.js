// Search: students by name, number or e-mail, courses by code or title.

import { get, Problem } from "./api.js";
import { announce, h } from "./dom.js";
import { courseLink, fullNameOf, link, problemBox, quiet, section } from "./parts.js";
import { seatBar } from "./seats.js";
import { text } from "./text.js";

const LIMIT = 15;
const MOST_DIGITS = 18;

/** Return the items of the first page of a list, and whether more follow; a text that the list can't take finds nothing. */
async function first(path, query, signal) {
  try {
    const page = await get(path, { ...query, limit: LIMIT }, signal);
    return { items: page.items, more: page.next !== null };
  } catch (error) {
    if (error instanceof Problem && error.status === 422) return { items: [], more: false };
    throw error;
  }
}

/** Return what several searches found, each item once. */
async function merged(searches) {
  const found = await Promise.all(searches);
  const items = [...new Map(found.flatMap(each => each.items).map(each => [each.id, each])).values()];
  return { items, more: found.some(each => each.more) };
}

/** Return the searches of students and courses alike: by words, by number if it can be one, and by id. */
function searchesOf(path, query, signal) {
  const searches = [first(path, { q: query }, signal)];
  if (!/\s/.test(query)) searches.push(first(path, { external_id: query }, signal));
  if (/^[1-9]\d*$/.test(query) && query.length <= MOST_DIGITS) searches.push(first(path, { id: query }, signal));
  return searches;
}

function findStudents(query, signal) {
  const searches = searchesOf("students", query, signal);
  if (/^\S+@\S+\.\S+$/.test(query)) searches.push(first("students", { email: query }, signal));
  return merged(searches);
}

function results(title, found, row) {
  if (!found.items.length) return null;
  return section(title, {},
    h("ul", { class: "hits" }, found.items.map(each => h("li", {}, row(each)))),
    h("p", { class: "count" }, found.more ? text.search.more(found.items.length) : text.list.all(found.items.length)));
}

export async function show({ frame, values: [query], signal }) {
  frame.append(h("h1", {}, text.search.title));
  const wanted = (query ?? "").trim();
  const field = document.getElementById("find");
  if (field !== null && document.activeElement !== field) field.value = decodeURIComponent(wanted);
  const sought = decodeURIComponent(wanted);
  if (!sought) {
    frame.append(quiet(text.search.lead));
    return text.search.title;
  }
  const terms = new Map();
  try {
    const [students, courses, page] = await Promise.all([
      findStudents(sought, signal), merged(searchesOf("courses", sought, signal)), get("terms", { limit: 500 }, signal),
    ]);
    for (const term of page.items) terms.set(term.id, term);
    const both = students.items.length + courses.items.length;
    frame.append(
      both ? quiet(text.search.keys) : quiet(text.search.nothing(sought)),
      h("div", { class: "columns even results" },
        results(text.search.students, students, student => link(`/students/${student.id}`,
          h("strong", {}, fullNameOf(student)),
          h("span", {}, [student.external_id, student.email].filter(Boolean).join(" · ")))),
        results(text.search.courses, courses, course => [
          h("a", { href: `#/courses/${course.id}` },
            h("strong", {}, ...courseLink(course).childNodes, " ", course.title),
            h("span", {}, terms.get(course.term_id)?.name ?? text.noTerm)),
          seatBar(course)])));
    announce(text.search.found(students.items.length, courses.items.length));
  } catch (error) {
    if (signal.aborted) throw error;
    frame.append(problemBox(error));
  }
  return text.search.title;
}
