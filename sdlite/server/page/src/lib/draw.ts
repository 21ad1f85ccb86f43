// What the button does, and what follows from a picture.
import { signal } from "@preact/signals";
import { Failure, call } from "./api";
import { t } from "./i18n";
import { recent } from "./gallery";
import { active, cancel, news, report, show, shown, submit } from "./jobs";
import { copy, download, fetched, fileName, sourceOf } from "./pictures";
import { bodyOf, restore, set, setSource, settings } from "./settings";
import { say } from "./toast";
import type { Body, Picture } from "./types";

/** What the stage shows: the result, or the picture to continue from. */
export const editing = signal(false);
/** The picture the one on the stage is compared with. */
export const compared = signal<Picture | null>(null);

export type Page = "draw" | "gallery" | "grid" | "setup";
export const page = signal<Page>("draw");

export async function draw(): Promise<void> {
  if (!settings.peek().prompt.trim()) {
    document.getElementById("prompt")?.focus();
    say(t("draw.no-prompt"), "error");
    return;
  }
  compared.value = null;
  editing.value = false;
  try {
    await submit(bodyOf(settings.peek()));
    reveal();
  } catch (error) {
    report(error);
  }
}

/** On a narrow screen the picture is above the form: go there when it is out of sight. */
function reveal(): void {
  requestAnimationFrame(() => {
    const stage = document.querySelector(".stage");
    if (!stage) return;
    const { top } = stage.getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) stage.scrollIntoView();
  });
}

export async function stop(): Promise<void> {
  const ticket = active.peek();
  if (!ticket) return;
  try {
    await cancel(ticket);
  } catch (error) {
    report(error);
  }
}

/** Continue from a picture of ours or of somebody's disk. */
export async function continueFrom(blob: Blob): Promise<void> {
  try {
    setSource(await sourceOf(blob));
    editing.value = true;
    compared.value = null;
    page.value = "draw";
  } catch {
    say(t("error.unreadable"), "error");
  }
}

interface Read {
  infotext: string;
  settings: Partial<Body>;
  problems: string[];
}

/** Take over the settings a picture carries; false when it carries none. */
export async function settingsOf(image: string, keepSeed = true): Promise<boolean> {
  try {
    const found = await call<Read>("POST", "read", { image, model: settings.peek().model });
    restore(found.settings, keepSeed);
    say(found.problems.length ? found.problems.join(" · ") : t("again.restored"));
    return true;
  } catch (error) {
    if (error instanceof Failure && error.kind !== "offline") return false;
    throw error;
  }
}

export async function again(picture: Picture, keepSeed: boolean): Promise<void> {
  const { data } = await sourceOf(await fetched(picture));
  if (!(await settingsOf(data, keepSeed))) {
    say(t("again.nothing"), "error");
    return;
  }
  page.value = "draw";
  document.getElementById("prompt")?.focus();
}

/** Whether a picture was made with a profile that approximates. */
export const isDraft = (picture: Picture): boolean => /\bProfile: \w+/.test(picture.infotext);

/** The same picture without approximations. */
export async function finish(picture: Picture): Promise<void> {
  await again(picture, true);
  set({ profile: null });
  await draw();
}

/** A dropped file: one of ours gives its settings, any other is continued from. */
export async function dropped(file: File): Promise<void> {
  const { data } = await sourceOf(file).catch(() => ({ data: "" }));
  if (!data) say(t("error.unreadable"), "error");
  else if (!(await settingsOf(data))) await continueFrom(file);
  else offered.value = file;
}

/** A dropped picture whose settings were taken over; it can still be continued from. */
export const offered = signal<File | null>(null);

export const save = (picture: Picture) => download(picture.url, fileName(picture));

export async function copyPicture(picture: Picture): Promise<void> {
  if (await copy(picture)) say(t("picture.copied"));
  else say(t("picture.no-copy"), "error");
}

/** Delete after a moment in which it can be undone. */
export function remove(picture: Picture): void {
  const before = shown.peek();
  const all = recent.peek().filter((item) => !gone.peek().has(item.url));
  const at = all.findIndex((item) => item.url === picture.url);
  const neighbour = at < 0 ? undefined : (all[at + 1] ?? all[at - 1]);
  const left = before.filter((item) => item.url !== picture.url);
  compared.value = null;
  gone.value = new Set([...gone.peek(), picture.url]);
  show(left.length || !neighbour ? left : [neighbour]);
  const putBack = () => {
    const rest = new Set(gone.peek());
    rest.delete(picture.url);
    gone.value = rest;
    show(before);
  };
  say(
    t("picture.deleted"),
    "info",
    putBack,
    () => {
      // The page may be closing: the call has to outlive it.
      const done = fetch(picture.url, { method: "DELETE", keepalive: true });
      done.then(
        () => news.value++,
        () => {
          putBack();
          say(t("error.offline"), "error");
        },
      );
    },
  );
}

/** Addresses of pictures that are about to be deleted. */
export const gone = signal<ReadonlySet<string>>(new Set());
