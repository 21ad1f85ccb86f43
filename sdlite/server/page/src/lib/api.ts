// Calls of the server. Everything that goes wrong becomes a Failure with words for people.
import { signal } from "@preact/signals";

export const API = "/api/v1/";

/** Whether the server answers; false while it cannot be reached. */
export const online = signal(true);

export class Failure extends Error {
  constructor(
    readonly kind: string,
    message: string,
    readonly status = 0,
    readonly retryAfter = 0,
  ) {
    super(message);
  }
}

/** Thrown when a newer call took the place of this one; nobody needs to be told. */
export const isAbort = (error: unknown): boolean =>
  error instanceof DOMException && error.name === "AbortError";

export async function call<T>(
  method: string,
  path: string,
  body?: unknown,
  stop?: AbortSignal,
): Promise<T> {
  const init: RequestInit = { method };
  if (stop) init.signal = stop;
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { "Content-Type": "application/json" };
  }
  let answer: Response;
  try {
    answer = await fetch(path.startsWith("/") ? path : API + path, init);
  } catch (error) {
    if (isAbort(error)) throw error;
    lost();
    throw new Failure("offline", "");
  }
  online.value = true;
  if (!answer.ok) throw await failure(answer);
  return (await answer.json()) as T;
}

export const get = <T>(path: string, stop?: AbortSignal) => call<T>("GET", path, undefined, stop);

async function failure(answer: Response): Promise<Failure> {
  const wait = Number(answer.headers.get("Retry-After") ?? 0);
  try {
    const { error } = (await answer.json()) as { error: { kind: string; message: string } };
    return new Failure(error.kind, error.message, answer.status, wait);
  } catch {
    return new Failure("unknown", answer.statusText, answer.status, wait);
  }
}

const waiting = new Set<() => void>();
let knocking = false;

/** Resolves once the server answers again. */
export function back(): Promise<void> {
  const promise = new Promise<void>((resolve) => waiting.add(resolve));
  lost();
  return promise;
}

/** Note that the server cannot be reached, and knock until it can. */
export function lost(): void {
  online.value = false;
  if (!knocking) void knock();
}

async function knock(): Promise<void> {
  knocking = true;
  for (let pause = 500; ; pause = Math.min(pause * 1.6, 5000)) {
    try {
      if ((await fetch("/healthz", { cache: "no-store" })).ok) break;
    } catch {
      // Not yet.
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
  knocking = false;
  online.value = true;
  const told = [...waiting];
  waiting.clear();
  for (const resolve of told) resolve();
}
