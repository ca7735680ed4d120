// The seats of a course as a bar: taken, free, and the waitlist beyond them.

import { h, unseen } from "./dom.js";
import { number } from "./format.js";
import { text } from "./text.js";

const LONGEST = 2;

/** Return the bar. Its width is twice the seats: a longer waitlist is cut, so that it does not hide the seats. */
export function seatBar(course, { numbers = true } = {}) {
  const { capacity, seats_taken: taken, waitlisted } = course;
  // Without a limit, the bar fades out where its end would be.
  const seats = capacity ?? taken * 2 + 1;
  const scale = Math.max(seats, taken, 1);
  const parts = { taken, free: Math.max(seats - taken, 0), waiting: waitlisted };
  let rest = LONGEST;
  const bar = h("span", { class: "seats-bar", "aria-hidden": "true" }, Object.entries(parts).map(([name, count]) => {
    const width = Math.min(count / scale, rest);
    rest -= width;
    const kind = name === "free" && capacity === null ? "free endless" : name;
    return width ? h("i", { class: kind, style: { width: `${(width / LONGEST) * 100}%` } }) : null;
  }));
  return h("span", { class: "seats" },
    unseen(text.fill.label(taken, capacity, waitlisted)),
    bar,
    numbers ? h("span", { class: "seats-numbers", "aria-hidden": "true" },
      h("b", {}, text.fill.of(taken, capacity)),
      h("em", {}, waitlisted ? `+${number(waitlisted)}` : "")) : null);
}

/** Return the meaning of the colours. */
export const legend = () =>
  h("p", { class: "legend", "aria-hidden": "true" },
    ["taken", "free", "waiting"].map(each =>
      h("span", {}, h("i", { class: each }), each === "waiting" ? text.fill.waitlisted : text.fill[each])));
