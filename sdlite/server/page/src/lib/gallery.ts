// Pictures the server keeps, newest first, found by words of their prompts.
import { effect, signal } from "@preact/signals";
import { Failure, get } from "./api";
import { news } from "./jobs";
import type { Picture } from "./types";

export const search = signal("");
export const pictures = signal<Picture[]>([]);
export const more = signal(false);
/** The newest, whatever is searched for: the strip below the stage. */
export const recent = signal<Picture[]>([]);

const PAGE = 60;
const STRIP = 24;

interface Answer {
  pictures: Picture[];
  next: string | null;
}
let next: string | null = null;

const ask = (limit: number, words: string, before: string | null): Promise<Answer> => {
  const query = new URLSearchParams({ limit: String(limit) });
  if (words) query.set("search", words);
  if (before) query.set("before", before);
  return get<Answer>(`pictures?${query}`);
};

/** A small version of a picture. */
export const small = (picture: Picture, size = 256): string =>
  picture.url.includes("?") || !picture.url.startsWith("/") ? picture.url : `${picture.url}?size=${size}&format=webp`;

export async function refresh(): Promise<void> {
  try {
    const [found, newest] = await Promise.all([
      ask(PAGE, search.peek(), null),
      ask(STRIP, "", null),
    ]);
    pictures.value = found.pictures;
    next = found.next;
    more.value = next !== null;
    recent.value = newest.pictures;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
  }
}

export async function further(): Promise<void> {
  if (!next) return;
  const found = await ask(PAGE, search.peek(), next);
  pictures.value = [...pictures.peek(), ...found.pictures];
  next = found.next;
  more.value = next !== null;
}

export function begin(): void {
  let timer = 0;
  effect(() => {
    void [search.value, news.value];
    clearTimeout(timer);
    timer = setTimeout(refresh, 150);
  });
}
