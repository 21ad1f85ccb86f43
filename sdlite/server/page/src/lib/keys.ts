// Keys, wherever the focus is; those without Ctrl only outside of fields.
import { signal } from "@preact/signals";
import { toggleCompare } from "../parts/actions";
import { type Page, compared, copyPicture, draw, editing, page, remove, save, stop } from "./draw";
import { recent } from "./gallery";
import { active, current, show } from "./jobs";
import { undo } from "./paint";

export const help = signal(false);

const PAGES: Record<string, Page> = { "1": "draw", "2": "gallery", "3": "grid", "4": "setup" };

const writes = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement &&
  target.closest("input, textarea, select, [role=slider], [role=application]") !== null;

function step(by: number): void {
  const there = recent.peek();
  const at = there.findIndex((item) => item.url === current.peek()?.url);
  const next = there[at + by];
  if (next && !active.peek()) show([next]);
}

function pressed(event: KeyboardEvent): void {
  const held = event.ctrlKey || event.metaKey;
  if (held && event.key === "Enter") void draw();
  else if (event.key === "Escape") {
    if (help.peek()) return; // The dialog closes itself.
    if (active.peek()) void stop();
    else if (compared.peek()) compared.value = null;
    else return;
  } else if (event.altKey && PAGES[event.key]) page.value = PAGES[event.key] as Page;
  else if (held && event.key === "z" && editing.peek() && !writes(event.target)) undo();
  else if (held || event.altKey || writes(event.target)) return;
  else if (!plain(event)) return;
  event.preventDefault();
}

function plain(event: KeyboardEvent): boolean {
  const picture = current.peek();
  if (event.key === "?") help.value = true;
  else if (event.key === "/") {
    const field = page.peek() === "gallery" ? "search" : "prompt";
    document.getElementById(field)?.focus();
  } else if (page.peek() !== "draw" || !picture) return false;
  else if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else if (event.key === "s") save(picture);
  else if (event.key === "c") void copyPicture(picture);
  else if (event.key === "v") toggleCompare(picture);
  else if (event.key === "Delete") remove(picture);
  else return false;
  return true;
}

export const begin = () => addEventListener("keydown", pressed);
