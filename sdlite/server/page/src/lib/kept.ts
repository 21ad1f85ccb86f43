// What is continued from outlives a reload: the picture, its mask and edges, the guide. They are too
// large for localStorage, and every tab has its own.
import { batch, effect } from "@preact/signals";
import { restore } from "./paint";
import { blobOf, sourceOf } from "./pictures";
import { type Guide, guide, margins, mask, setSource, source } from "./settings";
import type { Margins } from "./types";

interface Kept {
  picture: string | null;
  margins: Margins;
  mask: string | null;
  guide: (Omit<Guide, "picture"> & { picture: string }) | null;
  at: number;
}

const STORE = "tabs";
const TAB = "sdlite.tab";
const OLD = 7 * 24 * 3600 * 1000;
const REST = 100;

/** The same after a reload, another one in every tab. */
function tab(): string {
  const known = sessionStorage.getItem(TAB) ?? `${Date.now()}.${Math.random()}`;
  sessionStorage.setItem(TAB, known);
  return known;
}

function asked<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("storage"));
  });
}

async function store(): Promise<IDBObjectStore> {
  const request = indexedDB.open("sdlite", 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  const database = await asked(request);
  return database.transaction(STORE, "readwrite").objectStore(STORE);
}

async function write(now: Omit<Kept, "at">): Promise<void> {
  const place = await store();
  if (now.picture || now.guide) await asked(place.put({ ...now, at: Date.now() }, tab()));
  else await asked(place.delete(tab()));
}

async function recall(): Promise<void> {
  const place = await store();
  const found = (await asked(place.get(tab()))) as Kept | undefined;
  // Of tabs that were closed long ago.
  const cursor = place.openCursor();
  cursor.onsuccess = () => {
    const { result } = cursor;
    if (!result) return;
    if (Date.now() - (result.value as Kept).at > OLD) result.delete();
    result.continue();
  };
  if (!found) return;
  const picture = found.picture && (await sourceOf(blobOf(found.picture)));
  const led = found.guide && (await sourceOf(blobOf(found.guide.picture)));
  if (source.peek()) return; // Something was dropped meanwhile.
  batch(() => {
    if (picture) {
      setSource(picture);
      margins.value = found.margins;
    }
    if (found.guide && led) guide.value = { ...found.guide, picture: led };
  });
  if (picture && found.mask) await restore(found.mask);
}

/** Take up what was there, and keep what is from now on. */
export async function begin(): Promise<void> {
  try {
    await recall();
  } catch {
    // Private windows have no such place: it lasts until the page is closed.
  }
  let timer = 0;
  effect(() => {
    const led = guide.value;
    const now = {
      picture: source.value?.data ?? null,
      margins: margins.value,
      mask: mask.value,
      guide: led && { ...led, picture: led.picture.data },
    };
    clearTimeout(timer);
    timer = setTimeout(() => void write(now).catch(() => undefined), REST);
  });
}
