/** A batch: for every clip a table of methods and prompts, whose cells fill in while its jobs run. */

import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import { stateName } from "./job";
import { ago, seconds, titled } from "./text";
import { Still, Thumbnail } from "./thumbnail";
import { ended, type Batch, type BatchBody, type Job, type MethodSummary } from "./types";

const OVER = ["completed", "canceled"];
const PAUSE_MS = 700;
const PAGE = 200;
const MOST_CELLS = 1000;

const BATCH_WORDS: Record<string, string> = { accepted: "Being created", running: "Running", canceling: "Cancelling", completed: "Done", canceled: "Cancelled" };
export const batchState = (state: string): string => BATCH_WORDS[state] ?? state;

export function counted({ counts, total }: Batch): string {
  const words = [`${counts.succeeded ?? 0} of ${total} done`];
  if (counts.running) words.push(`${counts.running} running`);
  const lost = (counts.failed ?? 0) + (counts.expired ?? 0);
  if (lost) words.push(`${lost} failed`);
  if (counts.canceled) words.push(`${counts.canceled} cancelled`);
  return words.join(" · ");
}

async function all(id: string): Promise<Job[]> {
  let rows: Job[] = [];
  let cursor: string | null = null;
  do {
    const page = await api.jobs({ batch: id, cursor, limit: PAGE });
    rows = rows.concat(page.data);
    cursor = page.next_cursor;
  } while (cursor && rows.length < MOST_CELLS);
  return rows;
}

/** The batch and its jobs, now and after every change. */
function useBatch(id: string, fail: (error: unknown) => void): [Batch | null, Job[], boolean] {
  const [batch, setBatch] = useState<Batch | null>(null);
  const [jobs, setJobs] = useState<Job[]>([]);
  const [gone, setGone] = useState(false);
  useEffect(() => {
    const stop = new AbortController();
    const run = async () => {
      let version = -1;
      while (!stop.signal.aborted) {
        const next = await api.batchAfter(id, version, stop.signal).catch((error) => {
          if (error instanceof api.Refusal && error.status < 500 && error.status) throw error;
          return null;
        });
        if (next) {
          version = next.version;
          const rows = await all(id);
          if (stop.signal.aborted) return;
          setBatch(next);
          setJobs(rows);
          if (OVER.includes(next.state)) return;
        }
        await new Promise((go) => setTimeout(go, PAUSE_MS));
      }
    };
    run().catch((error) => {
      if (stop.signal.aborted) return;
      setGone(true);
      fail(error);
    });
    return () => stop.abort();
  }, [id]);
  return [batch, jobs, gone];
}

export function BatchPage({ id, fail }: { id: string; fail: (error: unknown) => void }) {
  const [batch, jobs, gone] = useBatch(id, fail);
  const [methods, setMethods] = useState<MethodSummary[]>([]);
  useEffect(() => void api.methods().then(setMethods, () => undefined), []);
  if (!batch)
    return (
      <div class="empty">
        <h1 class="hidden">Batch</h1>
        <p role="status">{gone ? "There is no such batch; it may have been deleted." : "Looking for the batch…"}</p>
      </div>
    );
  const over = OVER.includes(batch.state);
  const left = batch.eta.finish ? (Date.parse(batch.eta.finish) - Date.now()) / 1000 : 0;
  const stop = () => api.cancelBatch(batch.id).catch(fail);
  return (
    <article class="batch" data-state={batch.state}>
      <header class="job-head">
        <div>
          <h1>{named(batch)}</h1>
          <p class="facts">
            <span>{batch.total} edits</span>
            <span>{ago(batch.created_at)}</span>
          </p>
        </div>
        <div class="buttons">
          {!over && (
            <button type="button" class="danger" onClick={() => void stop()} disabled={batch.state === "canceling"}>
              Cancel all
            </button>
          )}
          <a class="button" href={`#/batch?from=${batch.id}`}>
            Change and run again
          </a>
        </div>
      </header>
      <section class="panel progress" aria-label="Progress">
        <div class="progress-head">
          <p class="state" role="status">
            <span class={`dot ${over ? "succeeded" : "running"}`} aria-hidden="true" /> {batchState(batch.state)} <span class="quiet">· {counted(batch)}</span>
          </p>
          {!over && left > 1 && <p class="quiet">about {seconds(left)} left</p>}
        </div>
        {!over && <progress aria-label="Whole batch" max={1} value={batch.progress.fraction} />}
      </section>
      {batch.matrix ? (
        batch.matrix.videos.map((_, index) => <Clip key={index} index={index} batch={batch} matrix={batch.matrix as BatchBody} jobs={jobs} methods={methods} />)
      ) : (
        <ul class="jobs">
          {jobs.map((job) => (
            <li key={job.id} class="job-card">
              <Cell job={job} />
            </li>
          ))}
        </ul>
      )}
    </article>
  );
}

export function named({ matrix, total }: Batch): string {
  if (!matrix) return `Batch of ${total} edits`;
  const part = (count: number, one: string, more: string) => `${count} ${count === 1 ? one : more}`;
  return [part(matrix.videos.length, "clip", "clips"), part(matrix.prompts.length, "prompt", "prompts"), part(matrix.methods.length, "method", "methods")].join(" × ");
}

interface ClipProps {
  index: number;
  batch: Batch;
  matrix: BatchBody;
  jobs: Job[];
  methods: MethodSummary[];
}

function Clip({ index, batch, matrix, jobs, methods }: ClipProps) {
  const { prompts, methods: used, videos } = matrix;
  const name = batch.metadata.studio_batch?.names?.[index] || `Clip ${index + 1}`;
  const at = (method: number, prompt: number) => jobs.find(({ batch: place }) => place?.video === index && place.method === method && place.prompt === prompt);
  const title = (id: string) => {
    const entry = methods.find((method) => method.id === id);
    return entry ? titled(entry.title, id).name : id;
  };
  return (
    <section class="panel matrix" aria-label={name}>
      <div class="matrix-head">
        <Still path={`v1/assets/${videos[index]?.video.asset}/content`} />
        <div>
          <h2>{name}</h2>
          {videos[index]?.source && <p class="quiet">{videos[index]?.source}</p>}
        </div>
      </div>
      <div class="matrix-table" tabIndex={0} role="group" aria-label={`Results of ${name}`}>
        <table>
          <thead>
            <tr>
              <th scope="col">
                <span class="hidden">Method</span>
              </th>
              {prompts.map(({ target }, prompt) => (
                <th key={prompt} scope="col">
                  {target}
                  <Together jobs={used.flatMap((_, method) => at(method, prompt) ?? [])} what={target} />
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {used.map(({ method: id }, method) => (
              <tr key={method}>
                <th scope="row">{title(id)}</th>
                {prompts.map((_, prompt) => {
                  const job = at(method, prompt);
                  return (
                    <td key={prompt} data-cell={`${index}-${method}-${prompt}`} data-state={job?.state ?? "none"}>
                      {job ? <Cell job={job} /> : <span class="quiet">not yet</span>}
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

/** All methods' answers to one wish, beside each other. */
function Together({ jobs, what }: { jobs: Job[]; what: string }) {
  const [first, ...rest] = jobs.filter(({ state }) => state === "succeeded").map(({ id }) => id);
  if (!first || !rest.length) return null;
  return (
    <a class="together" href={`#/jobs/${first}?with=${rest.join(",")}`} aria-label={`Compare the methods: ${what}`}>
      Compare {rest.length + 1}
    </a>
  );
}

function Cell({ job }: { job: Job }) {
  const share = Math.round(100 * job.progress.fraction);
  const words = job.state === "running" ? `${share} %` : job.error && job.state !== "canceled" ? job.error.title : stateName(job.state);
  return (
    <a class="cell" href={`#/jobs/${job.id}`} aria-label={`${job.metadata.studio?.target ?? job.method}: ${words}`}>
      <Thumbnail job={job} />
      <span class="state">
        <span class={`dot ${job.state}`} aria-hidden="true" /> {words}
      </span>
      {!ended(job) && job.state === "running" && <progress max={1} value={job.progress.fraction} aria-hidden="true" />}
    </a>
  );
}
