// Real time: the picture follows the typing.
import { effect, signal } from "@preact/signals";
import { call } from "./api";
import { plan } from "./forecast";
import { active, cancel, finished, report, submit } from "./jobs";
import { bodyOf, guide, margins, mask, settings, source } from "./settings";

/** Slower than this it would not follow. */
export const QUICK = 4;
const REST = 180;

export const live = signal(false);
const made = new Set<string>();
let seed = 0;
let timer = 0;
let last = "";

export const quick = (): boolean => (plan.value?.seconds ?? Infinity) <= QUICK;

async function follow(): Promise<void> {
  const now = settings.peek();
  if (!live.peek() || !now.prompt.trim()) return;
  const body = { ...bodyOf(now, now.seed ?? seed), images: 1 };
  const text = JSON.stringify(body);
  if (text === last) return;
  last = text;
  try {
    const running = active.peek();
    if (running?.live) await cancel(running);
    const { job } = await submit(body, true);
    made.add(job.id);
  } catch (error) {
    live.value = false;
    report(error);
  }
}

export function begin(): void {
  effect(() => {
    void [settings.value, source.value, mask.value, margins.value, guide.value];
    if (!live.value) return;
    clearTimeout(timer);
    timer = setTimeout(follow, REST);
  });
  effect(() => {
    // One seed as long as it is on: otherwise every letter would be another picture.
    if (live.value) seed = Math.floor(Math.random() * 2 ** 31);
    last = "";
  });
  finished.add((_job, before) => {
    // Only the newest is kept.
    if (before && made.delete(before)) {
      void call("DELETE", `jobs/${before}?forget=1`).catch(() => undefined);
    }
  });
}
