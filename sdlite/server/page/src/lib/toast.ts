// Short notices at the edge, one at a time; some can be undone while they are there.
import { signal } from "@preact/signals";

export interface Toast {
  text: string;
  kind: "info" | "error";
  undo?: () => void;
}

export const toast = signal<Toast | null>(null);
let timer = 0;
let finish: (() => void) | undefined;

/** Show a notice; `after` is called when it went without being undone. */
export function say(text: string, kind: Toast["kind"] = "info", undo?: () => void, after?: () => void) {
  settle();
  finish = after;
  toast.value = { text, kind, ...(undo && { undo }) };
  timer = setTimeout(settle, kind === "error" ? 9000 : 6000);
}

/** Take the notice away and do what waited for it. */
export function settle(): void {
  clearTimeout(timer);
  toast.value = null;
  const last = finish;
  finish = undefined;
  last?.();
}

export function undo(): void {
  const shown = toast.value;
  finish = undefined;
  settle();
  shown?.undo?.();
}

addEventListener("pagehide", settle);
