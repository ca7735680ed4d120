// A week as a picture: a column for each day, a block for each meeting. Screen readers get the same as lists.

import { h } from "./dom.js";
import { dayName, DAYS, formatDay } from "./format.js";
import { text } from "./text.js";

const MINUTES = 60;
const EARLIEST = 8 * MINUTES;
const LATEST = 18 * MINUTES;
const DAY_END = 24 * MINUTES;
const PIXELS_PER_HOUR = 40;

const minutes = time => Number(time.slice(0, 2)) * MINUTES + Number(time.slice(3, 5));

/** Return what limits a meeting to some dates, and where it is; null if nothing does. */
export function detailsOf(meeting) {
  const parts = [];
  if (meeting.every_weeks > 1) parts.push(text.course.everyWeeks(meeting.every_weeks));
  if (meeting.from || meeting.until) {
    parts.push(text.course.between(meeting.from && formatDay(meeting.from), meeting.until && formatDay(meeting.until)));
  }
  if (meeting.location) parts.push(meeting.location);
  return parts.length ? parts.join(", ") : null;
}

/** Return the blocks of meetings by day; one that ends after midnight has a second block on the next day. */
function blocksOf(entries) {
  const days = new Map(DAYS.map(day => [day, []]));
  for (const entry of entries) {
    for (const meeting of entry.meetings) {
      const start = minutes(meeting.start);
      const end = minutes(meeting.end);
      const late = end <= start;
      days.get(meeting.day).push({ entry, meeting, start, end: late ? DAY_END : end });
      if (late && end > 0) {
        const next = DAYS[(DAYS.indexOf(meeting.day) + 1) % DAYS.length];
        days.get(next).push({ entry, meeting, start: 0, end });
      }
    }
  }
  return days;
}

/** Give each block a lane, so that blocks at the same time are beside each other. */
function lay(blocks) {
  blocks.sort((one, other) => one.start - other.start || other.end - one.end);
  let group = [];
  let groupEnd = -1;
  const close = () => group.forEach(each => { each.lanes = Math.max(...group.map(its => its.lane)) + 1; });
  for (const block of blocks) {
    if (block.start >= groupEnd) {
      close();
      group = [];
      groupEnd = -1;
    }
    const taken = new Set(group.filter(each => each.end > block.start).map(each => each.lane));
    block.lane = 0;
    while (taken.has(block.lane)) block.lane += 1;
    group.push(block);
    groupEnd = Math.max(groupEnd, block.end);
  }
  close();
}

/**
 * Return the picture of a week. An entry has a `label`, a `kind` for its colour, `meetings`, and a `to` to link to.
 *
 * Entries that coincide on a day are marked.
 */
export function week(entries) {
  const days = blocksOf(entries);
  const all = [...days.values()].flat();
  if (!all.length) return null;
  for (const blocks of days.values()) lay(blocks);
  const first = Math.min(EARLIEST, ...all.map(each => Math.floor(each.start / MINUTES) * MINUTES));
  const last = Math.max(LATEST, ...all.map(each => Math.ceil(each.end / MINUTES) * MINUTES));
  const shown = DAYS.filter((day, index) => index < 5 || days.get(day).length);
  const height = ((last - first) / MINUTES) * PIXELS_PER_HOUR;
  const hours = Array.from({ length: (last - first) / MINUTES }, (_, index) => first / MINUTES + index);
  const place = block => ({
    top: `${((block.start - first) / MINUTES) * PIXELS_PER_HOUR}px`,
    height: `${((block.end - block.start) / MINUTES) * PIXELS_PER_HOUR - 1}px`,
    left: `${(block.lane / block.lanes) * 100}%`,
    width: `calc(${100 / block.lanes}% - 2px)`,
  });
  return h("div", { class: "week", style: { "--height": `${height}px`, "--hour": `${PIXELS_PER_HOUR}px`, "--days": String(shown.length) } },
    h("div", { class: "week-hours", "aria-hidden": "true" },
      hours.map(hour => h("span", {}, `${String(hour).padStart(2, "0")}:00`))),
    shown.map(day => h("div", { class: "week-day" },
      h("h3", { "aria-label": dayName(day, true) }, dayName(day)),
      h("ul", { class: "week-blocks" }, days.get(day).map(block => {
        const { entry, meeting } = block;
        const details = detailsOf(meeting);
        const content = [h("b", {}, entry.label), h("span", {}, `${meeting.start}–${meeting.end}`),
          details === null ? null : h("small", {}, details)];
        const name = `${entry.label}, ${meeting.start}–${meeting.end}${details === null ? "" : `, ${details}`}`;
        return h("li", { class: `block ${entry.kind}${block.lanes > 1 ? " beside" : ""}`, style: place(block), title: name },
          entry.to ? h("a", { href: `#${entry.to}` }, content) : h("div", {}, content));
      })))));
}
