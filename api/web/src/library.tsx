/** All jobs: thumbnails, filter by state, search, delete. */

import { useEffect, useRef, useState } from "preact/hooks";
import * as api from "./api";
import { stateName } from "./job";
import { batchState, counted } from "./matrix";
import { ago, spoken } from "./text";
import { Thumbnail } from "./thumbnail";
import { ended, type Batch, type Job } from "./types";

const FILTERS: Record<string, string[]> = {
  all: [],
  active: ["accepted", "queued", "running", "finalizing", "canceling"],
  done: ["succeeded"],
  failed: ["failed", "expired"],
  cancelled: ["canceled"],
};
const REFRESH_MS = 3000;

const searchable = (job: Job): string =>
  [job.id, job.method, api.methodName(job.method), job.metadata.studio?.target, job.metadata.studio?.source, job.metadata.studio?.name].join(" ").toLowerCase();

/** Batches, newest first; nothing where there is none. */
function Batches() {
  const [found, setFound] = useState<Batch[]>([]);
  useEffect(() => {
    const read = () => api.batches().then(({ data }) => setFound(data), () => undefined);
    void read();
    const timer = setInterval(read, REFRESH_MS);
    return () => clearInterval(timer);
  }, []);
  if (!found.length) return null;
  return (
    <section aria-labelledby="h-batches">
      <h2 id="h-batches">Batches</h2>
      <ul class="batches">
        {found.map((batch) => (
          <li key={batch.id} data-batch={batch.id}>
            <a href={`#/batches/${batch.id}`}>
              {batch.total} edits{(batch.metadata.studio_batch?.names ?? []).length > 0 && ` of ${batch.metadata.studio_batch?.names?.join(", ")}`}
            </a>
            <span class="quiet">
              {batchState(batch.state)} · {counted(batch)} · {ago(batch.created_at)}
            </span>
            <progress aria-label={`Batch of ${batch.total} edits`} max={1} value={batch.progress.fraction} />
          </li>
        ))}
      </ul>
    </section>
  );
}

export function Library({ fail }: { fail: (error: unknown) => void }) {
  const [filter, setFilter] = useState("all");
  const [search, setSearch] = useState("");
  const [found, setFound] = useState<Job[] | null>(null);
  const [cursor, setCursor] = useState<string | null>(null);
  const pages = useRef(1);
  const round = useRef(0);

  /** Read as many pages as are shown; an answer that comes late is dropped. */
  const load = async () => {
    const mine = (round.current += 1);
    let rows: Job[] = [];
    let next: string | null = null;
    for (let page = 0; page < pages.current; page += 1) {
      const answer = await api.jobs({ states: FILTERS[filter], cursor: next });
      rows = rows.concat(answer.data);
      next = answer.next_cursor;
      if (!next) break;
    }
    if (mine !== round.current) return;
    setFound(rows);
    setCursor(next);
  };
  useEffect(() => {
    pages.current = 1;
    setFound(null);
    load().catch(fail);
    return () => void (round.current += 1);
  }, [filter]);
  const lively = found?.some((job) => !ended(job)) ?? false;
  useEffect(() => {
    if (!lively) return;
    const timer = setInterval(() => load().catch(() => undefined), REFRESH_MS);
    return () => clearInterval(timer);
  }, [lively, filter]);

  const more = () => {
    pages.current += 1;
    load().catch(fail);
  };
  const remove = (job: Job) => {
    if (!confirm("Delete this job and its result?")) return;
    api.remove(job.id).then(() => setFound((old) => old?.filter(({ id }) => id !== job.id) ?? null), fail);
  };
  const shown = (found ?? []).filter((job) => searchable(job).includes(search.toLowerCase().trim()));
  return (
    <div class="shelf">
      <h1>Library</h1>
      <Batches />
      <div class="filters">
        <div class="buttons" role="group" aria-label="Show">
          {Object.keys(FILTERS).map((name) => (
            <button key={name} type="button" aria-pressed={name === filter} onClick={() => setFilter(name)}>
              {spoken(name)}
            </button>
          ))}
        </div>
        <input type="search" aria-label="Search jobs" placeholder="Search words, method, file" value={search} onInput={(event) => setSearch((event.target as HTMLInputElement).value)} />
      </div>
      {found === null && (
        <p class="quiet" role="status">
          Loading…
        </p>
      )}
      {found !== null && !shown.length && (
        <div class="empty">
          <p>{found.length ? "No job has these words." : "Nothing here yet."}</p>
          <a class="button primary" href="#/new">
            New edit
          </a>
        </div>
      )}
      <ul class="jobs">
        {shown.map((job) => (
          <Row key={job.id} job={job} remove={remove} />
        ))}
      </ul>
      {cursor && (
        <button type="button" onClick={more}>
          More
        </button>
      )}
    </div>
  );
}

function Row({ job, remove }: { job: Job; remove: (job: Job) => void }) {
  const note = job.metadata.studio;
  const share = Math.round(100 * job.progress.fraction);
  return (
    <li class="job-card" data-job={job.id}>
      <a href={`#/jobs/${job.id}`} class="job-link">
        <Thumbnail job={job} />
        <span class="job-words">{note?.target || api.methodName(job.method)}</span>
      </a>
      <p class="facts">
        <span class="state">
          <span class={`dot ${job.state}`} aria-hidden="true" /> {stateName(job.state)}
          {job.state === "running" && ` ${share} %`}
        </span>
        <span>{api.methodName(job.method)}</span>
        <span>{ago(job.created_at)}</span>
      </p>
      {ended(job) && (
        <button type="button" class="remove" aria-label={`Delete: ${note?.target || job.id}`} onClick={() => remove(job)}>
          ×
        </button>
      )}
    </li>
  );
}
