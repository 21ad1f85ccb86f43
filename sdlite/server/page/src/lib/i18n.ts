// Words in the reader's language. English is in the program, the others are fetched when chosen.
import { signal } from "@preact/signals";
import english from "../lang/en.json";

export type Key = keyof typeof english;
type Words = Record<Key, string>;

export const LANGUAGES = { en: "English", de: "Deutsch", nl: "Nederlands" } as const;
export type Language = keyof typeof LANGUAGES;

const STORED = "sdlite.language";
const words = signal<Words>(english);
export const language = signal<Language>("en");

const known = (text: string | undefined): text is Language => text !== undefined && text in LANGUAGES;

export async function speak(wanted: Language, keep = true): Promise<void> {
  if (keep) localStorage.setItem(STORED, wanted);
  if (wanted !== "en") {
    try {
      const answer = await fetch(`/page/${wanted}.json`);
      if (!answer.ok) return;
      words.value = (await answer.json()) as Words;
    } catch {
      return; // The language that is there stays.
    }
  } else words.value = english;
  language.value = wanted;
  document.documentElement.lang = wanted;
}

/** The stored choice, else the first of the browser's languages that is there. */
export function begin(): Promise<void> {
  const stored = localStorage.getItem(STORED) ?? undefined;
  if (known(stored)) return speak(stored);
  const first = navigator.languages.map((name) => name.slice(0, 2)).find(known);
  return speak(first ?? "en", false);
}

export function t(key: Key, values: Record<string, string | number> = {}): string {
  return words.value[key].replace(/\{(\w+)\}/g, (whole, name: string) =>
    name in values ? String(values[name]) : whole,
  );
}

/** Whether there are words for a key made at run time. */
export const has = (key: string): key is Key => key in words.value;

/** Words for a kind of error. */
export const errorKey = (kind: string): Key =>
  has(`error.${kind}`) ? (`error.${kind}` as Key) : "error.other";

/** How the reader's region writes dates and numbers in the language that is shown. */
const region = (): string =>
  navigator.languages.find((name) => name.startsWith(language.value)) ?? language.value;

export function number(value: number, digits = 0): string {
  return new Intl.NumberFormat(region(), { maximumFractionDigits: digits }).format(value);
}

/** Less than this is not worth a number. */
const LITTLE = 0.95;

/** An estimate, as a sentence of its own. */
export const about = (seconds: number): string =>
  seconds < LITTLE ? t("forecast.under") : t("forecast.about", { time: duration(seconds) });

/** A duration where there is little room. */
export const brief = (seconds: number): string =>
  seconds < LITTLE ? t("time.seconds", { n: "< 1" }) : duration(seconds);

/** A duration as people say it. */
export function duration(seconds: number): string {
  if (seconds < LITTLE) return t("time.under");
  if (seconds < 9.5) return t("time.seconds", { n: number(seconds, 1) });
  if (seconds < 99.5) return t("time.seconds", { n: number(seconds) });
  if (seconds < 5970) return t("time.minutes", { n: number(Math.round(seconds / 60)) });
  return t("time.hours", { n: number(seconds / 3600, 1) });
}

export function bytes(value: number): string {
  if (value >= 1e9) return `${number(value / 1e9, 1)} GB`;
  if (value >= 1e6) return `${number(value / 1e6)} MB`;
  return `${number(value / 1e3)} kB`;
}

export function when(seconds: number): string {
  const style = { dateStyle: "medium", timeStyle: "short" } as const;
  return new Intl.DateTimeFormat(region(), style).format(seconds * 1000);
}
