// Server-Sent Events over fetch: EventSource can't send the header Authorization.

import { Problem, send } from "./api.js";

const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 15000;

/** Split a text of Server-Sent Events into messages; return them and the incomplete rest. */
export function parse(buffer) {
  const parts = buffer.split("\n\n");
  const rest = parts.pop();
  const messages = parts.map(part => {
    const message = { event: "message", data: "", id: null };
    for (const line of part.split("\n")) {
      const [field, ...value] = line.split(": ");
      if (field in message) message[field] = value.join(": ");
    }
    return message;
  });
  return { messages, rest };
}

/**
 * Follow the feed from now on, or from a cursor, until the signal aborts; connect again after a break.
 *
 * `onEvents` gets the events that arrived together, `onState` "live" or "waiting", and `onProblem` an error that ends it.
 */
export async function follow(query, { signal, onEvents, onState = () => {}, onProblem = () => {} }) {
  let cursor = query.after ?? null;
  let pause = FIRST_PAUSE;
  while (!signal.aborted) {
    try {
      const options = { query: { ...query, after: null }, accept: "text/event-stream", signal, lastEventId: cursor };
      const response = await send("GET", "events", options);
      onState("live");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let buffer = "";
      for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
        pause = FIRST_PAUSE;
        const { messages, rest } = parse(buffer + chunk.value);
        buffer = rest;
        const problem = messages.find(each => each.event === "problem");
        const events = messages.filter(each => each.event === "message" && each.data).map(each => JSON.parse(each.data));
        cursor = messages.findLast(each => each.id !== null)?.id ?? cursor;
        if (events.length) onEvents(events);
        if (problem) {
          const body = JSON.parse(problem.data);
          throw new Problem(body.status, body);
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      const lasting = error instanceof Problem && error.status >= 400 && error.status < 500;
      if (lasting) return onProblem(error);
    }
    onState("waiting");
    await new Promise(resolve => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, LONGEST_PAUSE);
  }
}
