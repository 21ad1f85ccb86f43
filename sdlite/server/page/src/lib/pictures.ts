// Files, clipboard, canvases.
import { Failure, lost } from "./api";
import type { Picture } from "./types";
import type { Source } from "./settings";

export function base64(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^[^,]*,/, ""));
    reader.onerror = () => reject(reader.error ?? new Error("unreadable"));
    reader.readAsDataURL(blob);
  });
}

export const blobOf = (data: string): Blob =>
  new Blob([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))]);

export function load(url: string): Promise<HTMLImageElement> {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("unreadable"));
    image.src = url;
  });
}

export async function sourceOf(blob: Blob): Promise<Source> {
  const url = URL.createObjectURL(blob);
  const image = await load(url);
  return { url, width: image.naturalWidth, height: image.naturalHeight, data: await base64(blob) };
}

/** The file of a picture; throws a ``Failure`` when the server does not give it. */
export async function fetched(picture: Picture): Promise<Blob> {
  let answer: Response;
  try {
    answer = await fetch(picture.url);
  } catch {
    lost();
    throw new Failure("offline", "");
  }
  if (!answer.ok) throw new Failure("gone", answer.statusText, answer.status);
  return answer.blob();
}

export function download(url: string, name: string): void {
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
}

export const fileName = (picture: Picture): string =>
  `sdlite-${picture.seed ?? "picture"}${picture.number ? `-${picture.number + 1}` : ""}.png`;

/** Copy a picture; false where the browser does not let pages do that. */
export async function copy(picture: Picture): Promise<boolean> {
  if (!navigator.clipboard || typeof ClipboardItem === "undefined") return false;
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": fetched(picture) })]);
    return true;
  } catch {
    return false;
  }
}

/** The first picture of a drop or paste. */
export function pictureIn(data: DataTransfer | null): File | undefined {
  return [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));
}

/** What the last line of an infotext says, by name; values in quotes may hold commas. */
export function parameters(infotext: string): Map<string, string> {
  const found = told(infotext).rest.matchAll(/\s*([^:,]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)/g);
  return new Map([...found].map(([, name = "", value = ""]) => [name.trim(), value.trim()]));
}

/** Of two pictures, every setting that is not the same, with both values. */
export function differences(before: Picture, after: Picture): [string, string, string][] {
  const [one, other] = [before, after].map(({ infotext }) => {
    const { prompt, negative } = told(infotext);
    return new Map([["Prompt", prompt], ["Negative prompt", negative], ...parameters(infotext)]);
  }) as [Map<string, string>, Map<string, string>];
  return [...new Set([...one.keys(), ...other.keys()])]
    .map((name): [string, string, string] => [name, one.get(name) || "–", other.get(name) || "–"])
    .filter(([, value, changed]) => value !== changed);
}

/** Prompt and settings of an infotext, for showing. */
export function told(infotext: string): { prompt: string; negative: string; rest: string } {
  const lines = infotext.split("\n");
  const rest = lines.length > 1 ? (lines.pop() ?? "") : "";
  const at = lines.findIndex((line) => line.startsWith("Negative prompt:"));
  const prompt = (at < 0 ? lines : lines.slice(0, at)).join("\n");
  const negative = at < 0 ? "" : lines.slice(at).join("\n").replace("Negative prompt:", "").trim();
  return { prompt, negative, rest };
}
