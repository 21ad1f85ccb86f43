// What the machine will need, asked whenever the form rests.
import { effect, signal } from "@preact/signals";
import { Failure, call, isAbort } from "./api";
import { news } from "./jobs";
import { bodyOf, choices, guide, margins, mask, settings, source } from "./settings";
import type { Plan } from "./types";

export const plan = signal<Plan | null>(null);
/** Why it cannot be drawn as it is set. */
export const objection = signal<Failure | null>(null);

const REST = 250;
let timer = 0;
let stop: AbortController | undefined;

export function forecast(): void {
  clearTimeout(timer);
  timer = setTimeout(ask, REST);
}

async function ask(): Promise<void> {
  stop?.abort();
  stop = new AbortController();
  try {
    const body = bodyOf({ ...settings.peek(), prompt: settings.peek().prompt || " " });
    plan.value = await call<Plan>("POST", "plan", body, stop.signal);
    objection.value = null;
  } catch (error) {
    if (isAbort(error)) return;
    if (error instanceof Failure && error.kind !== "offline") {
      objection.value = error;
      plan.value = null;
    }
  }
}

/** Ask again after every change. */
export function begin(): void {
  effect(() => {
    // A picture that was drawn teaches how long the next one takes.
    void [settings.value, source.value, mask.value, margins.value, guide.value];
    void [choices.value, news.value];
    forecast();
  });
}
