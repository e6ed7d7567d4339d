/** What an edit would take, before it is sent. */

import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import { seconds, stageName } from "./text";
import type { EditBody, Estimate } from "./types";

const PAUSE_MS = 600;

/** The estimate of this request, asked for once it has stood still for a moment; null while there is none. */
export function useEstimate(body: EditBody | null): Estimate | null {
  const [found, setFound] = useState<Estimate | null>(null);
  const text = body ? JSON.stringify(body) : "";
  useEffect(() => {
    if (!text) return setFound(null);
    const stop = new AbortController();
    const timer = setTimeout(() => {
      // a request that is not whole yet has no estimate, and says so itself when it is sent
      api.estimate(text, stop.signal).then(setFound, () => stop.signal.aborted || setFound(null));
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [text]);
  return found;
}

const list = (words: string[]): string => (words.length > 1 ? `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}` : (words[0] ?? ""));

export function EstimateLine({ estimate }: { estimate: Estimate }) {
  const { seconds: usual, p90_seconds: late, stages, queue, work } = estimate;
  const hits = stages.filter(({ cache }) => cache === "hit").map(({ name }) => stageName(name).toLowerCase());
  const before = queue.position - 1;
  return (
    <p class="estimate" role="status">
      <strong>{usual === null ? "No estimate yet" : `About ${seconds(usual)}`}</strong>
      {usual !== null && late !== null && late > 1.2 * usual && <span> at most {seconds(late)}</span>}
      <span class="quiet">
        {work.frames} {work.frames === 1 ? "frame" : "frames"}
        {usual === null && " · no edit like this has been made here"}
        {hits.length > 0 && ` · ${list(hits)} from the cache`}
        {before > 0 && ` · ${before} before it`}
        {queue.wait_seconds !== null && queue.wait_seconds > 1 && `, starts in ${seconds(queue.wait_seconds)}`}
        {queue.workers === 0 && " · no worker is there right now"}
      </span>
    </p>
  );
}
