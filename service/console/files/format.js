// Numbers and dates in the browser's language.

const languages = navigator.languages?.length ? navigator.languages : undefined;
const whole = new Intl.NumberFormat(languages);
const decimal = new Intl.NumberFormat(languages, { maximumFractionDigits: 2 });
const fraction = new Intl.NumberFormat(languages, { style: "percent" });
const day = new Intl.DateTimeFormat(languages, { dateStyle: "medium", timeZone: "UTC" });
const instant = new Intl.DateTimeFormat(languages, { dateStyle: "medium", timeStyle: "short" });
const second = new Intl.DateTimeFormat(languages, { dateStyle: "medium", timeStyle: "medium" });
const exact = new Intl.DateTimeFormat(languages, { dateStyle: "full", timeStyle: "long" });
const clock = new Intl.DateTimeFormat(languages, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const weekday = new Intl.DateTimeFormat(languages, { weekday: "short", timeZone: "UTC" });
const longWeekday = new Intl.DateTimeFormat(languages, { weekday: "long", timeZone: "UTC" });
const plural = new Intl.PluralRules("en");

export const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

export const number = value => whole.format(value);
export const credits = value => decimal.format(value);
export const percent = value => fraction.format(value);
export const formatDay = value => day.format(new Date(`${value}T00:00:00Z`));
export const formatInstant = value => instant.format(new Date(value));
export const formatSecond = value => second.format(new Date(value));
export const formatExact = value => exact.format(new Date(value));
export const formatClock = value => clock.format(new Date(value));

/** Return the name of a day of the week; 5 January 1970 was a Monday. */
export const dayName = (name, long = false) =>
  (long ? longWeekday : weekday).format(new Date(Date.UTC(1970, 0, 5 + DAYS.indexOf(name))));

/** Return a count with its noun, whose forms the texts give: `counted(2, { one: "course", other: "courses" })`. */
export const counted = (count, forms) => `${number(count)} ${forms[plural.select(count)] ?? forms.other}`;
