// Jobs: asked for, watched through lost connections and restarts of the server, ended.
import { batch, computed, signal } from "@preact/signals";
import { API, Failure, back, call, get } from "./api";
import { t } from "./i18n";
import { say } from "./toast";
import type { Body, Job, Picture } from "./types";

export interface Ticket {
  job: Job;
  /** What was asked for; not known of jobs that another tab sent. */
  body?: Body;
  /** Drawn while somebody types: superseded ones are forgotten. */
  live: boolean;
  preview?: string;
  /** Asked for again after the server had forgotten it. */
  again: boolean;
}

/** Jobs that are not over, first come first. */
export const tickets = signal<Ticket[]>([]);
export const active = computed<Ticket | undefined>(
  () => tickets.value.find((item) => item.job.state === "running") ?? tickets.value[0],
);

/** What is on the stage when nothing runs. */
export const shown = signal<Picture[]>([]);
export const chosen = signal(0);
export const current = computed<Picture | undefined>(() => shown.value[chosen.value]);
export const failed = signal<{ kind: string; message: string } | null>(null);
/** Counts up whenever the gallery has something new. */
export const news = signal(0);

export function show(pictures: Picture[], which = 0): void {
  batch(() => {
    shown.value = pictures;
    chosen.value = which;
    failed.value = null;
  });
}

const over = (job: Job): boolean => ["done", "failed", "cancelled"].includes(job.state);

function update(id: string, change: Partial<Ticket>): void {
  tickets.value = tickets.value.map((item) =>
    item.job.id === id ? { ...item, ...change } : item,
  );
}

export async function submit(body: Body, live = false): Promise<Ticket> {
  const job = await call<Job>("POST", "jobs", body);
  const ticket: Ticket = { job, body, live, again: false };
  batch(() => {
    failed.value = null;
    tickets.value = [...tickets.value, ticket];
  });
  watch();
  return ticket;
}

export async function cancel(ticket: Ticket): Promise<void> {
  tickets.value = tickets.value.filter((item) => item.job.id !== ticket.job.id);
  watch();
  await call("DELETE", `jobs/${ticket.job.id}`);
}

/** Jobs of this client that are under way, also of other tabs or before a reload. */
export async function resume(): Promise<void> {
  const { jobs } = await get<{ jobs: Job[] }>("jobs");
  const known = new Set(tickets.value.map((item) => item.job.id));
  const found = jobs.filter((job) => !over(job) && !known.has(job.id)).reverse();
  if (found.length) {
    tickets.value = [...tickets.value, ...found.map((job) => ({ job, live: false, again: false }))];
  }
  if (!shown.value.length) {
    const last = jobs.find((job) => job.state === "done" && job.images.length);
    if (last) show(picturesOf(last));
  }
  watch();
}

export function picturesOf(job: Job): Picture[] {
  return job.images.map((image, number) => ({
    width: job.width,
    height: job.height,
    ...image,
    number,
    job: job.id,
    created: job.created,
  }));
}

let watched: { id: string; events: EventSource } | undefined;

/** Listen to the job whose turn it is; one connection, as browsers allow few. */
function watch(): void {
  const ticket = active.peek();
  if (watched && watched.id === ticket?.job.id) return;
  watched?.events.close();
  watched = undefined;
  if (!ticket) return;
  const { id } = ticket.job;
  const events = new EventSource(`${API}jobs/${id}/events?preview=1`);
  watched = { id, events };
  const take = (event: MessageEvent<string>) => {
    const job = JSON.parse(event.data) as Job;
    update(id, { job, ...(job.preview && { preview: job.preview }) });
    if (over(job)) end(job);
    else if (active.peek()?.job.id !== id) watch();
  };
  for (const name of ["progress", "done", "failed", "cancelled"]) {
    events.addEventListener(name, take);
  }
  events.onerror = () => {
    // An answer that is no stream, or no answer at all: ask what became of the job.
    events.close();
    if (watched?.events === events) watched = undefined;
    void recover(id);
  };
}

async function recover(id: string): Promise<void> {
  const ticket = tickets.peek().find((item) => item.job.id === id);
  if (!ticket) return;
  try {
    const job = await get<Job>(`jobs/${id}`);
    update(id, { job });
    if (over(job)) end(job);
    else watch();
  } catch (error) {
    if (error instanceof Failure && error.kind === "offline") {
      await back();
      return recover(id);
    }
    await again(ticket);
  }
}

/** The server was started anew and does not know the job: ask once more, with the same seed. */
async function again(ticket: Ticket): Promise<void> {
  const { body, job } = ticket;
  tickets.value = tickets.value.filter((item) => item.job.id !== job.id);
  if (!body || ticket.again) {
    failed.value = { kind: "forgotten", message: "" };
    watch();
    return;
  }
  try {
    const next = await submit({ ...body, seed: job.seed }, ticket.live);
    update(next.job.id, { again: true });
    say(t("job.again"));
  } catch (error) {
    report(error);
  }
}

function end(job: Job): void {
  const ticket = tickets.peek().find((item) => item.job.id === job.id);
  watched?.events.close();
  watched = undefined;
  batch(() => {
    tickets.value = tickets.value.filter((item) => item.job.id !== job.id);
    if (job.state === "done") {
      const superseded = ticket?.live ? shown.peek()[0]?.job : undefined;
      show(picturesOf(job));
      for (const listener of finished) listener(job, superseded);
      news.value++;
    } else if (job.state === "failed") {
      failed.value = { kind: job.error_kind ?? "failed", message: job.error ?? "" };
    }
  });
  watch();
}

/** Called with every job that was drawn. */
export const finished = new Set<(job: Job, before: string | undefined) => void>();

/** Do what may fail, and show why it did. */
export async function attempt(work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (error) {
    report(error);
  }
}

export function report(error: unknown): void {
  if (error instanceof Failure) failed.value = { kind: error.kind, message: error.message };
  else throw error;
}
