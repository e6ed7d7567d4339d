/** A job as it changes: server-sent events, and polling where they do not get through. */

import * as api from "./api";
import { ended, type Job } from "./types";

const POLL_SECONDS = 20;
const LOST_MS = 1000;
const SILENT_MS = 25_000;
const PLACE_MS = 4000;
const MOST_STRIKES = 2;
export type Channel = "live" | "polling" | "lost" | "done";

const pause = (ms: number): Promise<void> => new Promise((go) => setTimeout(go, ms));

interface Message {
  event: string;
  id: string;
  data: string;
}

/** Read a stream of events, one message after the other. */
async function* messages(body: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<Message> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array<ArrayBuffer>>).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).replace(/\r\n?/g, "\n").split("\n\n");
    rest = parts.pop() ?? "";
    for (const part of parts) {
      const message: Message = { event: "", id: "", data: "" };
      for (const line of part.split("\n")) {
        const [, name, text] = /^(event|id|data): ?(.*)$/.exec(line) ?? [];
        if (name === "event" || name === "id" || name === "data") message[name] += text ?? "";
      }
      yield message;
    }
  }
}

/** Call `tell` with the job now and after every change until it has ended; returns what stops it. */
export function follow(id: string, tell: (job: Job) => void, channel: (now: Channel) => void, fail: (error: unknown) => void): () => void {
  const stop = new AbortController();
  let last = "";
  let strikes = 0; // streams in a row that brought nothing
  let waiting = false;

  function hand(job: Job): boolean {
    waiting = job.state === "accepted" || job.state === "queued";
    if (!stop.signal.aborted) tell(job);
    return ended(job);
  }

  const read = async (): Promise<boolean> => hand(await api.job(id));

  /** True when the job has ended; false when the stream was cut. */
  async function listen(): Promise<boolean> {
    const silence = new AbortController();
    const signal = AbortSignal.any([stop.signal, silence.signal]);
    const headers: Record<string, string> = { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) };
    let timer = setTimeout(() => silence.abort(), SILENT_MS);
    try {
      const response = await api.request(`v1/jobs/${id}/events`, { headers, signal });
      if (!response.body) return false;
      channel("live");
      for await (const message of messages(response.body)) {
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENT_MS);
        if (message.id) last = message.id;
        strikes = 0;
        if (message.event === "snapshot") {
          if (hand(await api.enriched(JSON.parse(message.data) as Job))) return true;
        } else if (message.event && message.event !== "log" && (await read())) return true;
      }
      return false;
    } finally {
      clearTimeout(timer);
      silence.abort();
    }
  }

  /** One long poll: returns when the job has changed or some seconds have passed. */
  async function poll(version: number): Promise<Job | null> {
    channel("polling");
    const headers = { "If-None-Match": `W/"${version}"`, Prefer: `wait=${POLL_SECONDS}` };
    const response = await api.request(`v1/jobs/${id}`, { headers, signal: stop.signal });
    return response.status === 304 ? null : api.enriched((await response.json()) as Job);
  }

  /** One round on the better channel; true when the job has ended. */
  async function round(version: { known: number }): Promise<boolean> {
    if (strikes < MOST_STRIKES) {
      strikes += 1;
      return listen();
    }
    const job = await poll(version.known);
    if (job) version.known = job.version;
    return job !== null && hand(job);
  }

  async function run(): Promise<void> {
    const version = { known: -1 };
    while (!stop.signal.aborted) {
      try {
        if (await round(version)) return channel("done");
      } catch (error) {
        if (stop.signal.aborted) return;
        const status = error instanceof api.Refusal ? error.status : 0;
        if (status >= 400 && status < 500 && status !== 429) return fail(error);
        channel("lost");
        await pause(LOST_MS);
      }
    }
  }

  // A job that waits hears nothing of those before it: look after its place.
  const place = setInterval(() => waiting && void read().catch(() => undefined), PLACE_MS);
  stop.signal.addEventListener("abort", () => clearInterval(place));
  void run();
  return () => stop.abort();
}
