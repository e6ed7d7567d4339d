/** One job: what it does right now, what went wrong and what to do about it, and the result next to its source. */

import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import { Compare } from "./compare";
import { follow, type Channel } from "./follow";
import { Logs, Receipt } from "./logs";
import { Preview } from "./preview";
import { ago, count, seconds, spoken, STAGES, stageName, titled } from "./text";
import { ended, type Job, type MethodSummary, type Stage } from "./types";

const CHANNELS: Record<Channel, string> = { live: "live", polling: "polling", lost: "reconnecting…", done: "" };
const AGAIN = ["failed", "canceled", "expired"];
const STOPPABLE = ["accepted", "queued", "running"];

interface Props {
  id: string;
  together: string[]; // other results to show beside this one
  fail: (error: unknown) => void;
}

export function JobPage({ id, together, fail }: Props) {
  const [job, setJob] = useState<Job | null>(null);
  const [gone, setGone] = useState(false);
  const [channel, setChannel] = useState<Channel>("live");
  const [methods, setMethods] = useState<MethodSummary[]>([]);
  useEffect(() => {
    api.methods().then(setMethods, () => undefined);
    return follow(id, (next) => setJob((old) => (old && old.version > next.version ? old : next)), setChannel, (error) => {
      setGone(error instanceof api.Refusal && error.status === 404);
      fail(error);
    });
  }, [id]);
  if (gone) return <Empty text="There is no such job; it may have been deleted." />;
  if (!job) return <Empty text="Looking for the job…" />;
  const entry = methods.find((method) => method.id === job.method);
  const note = job.metadata.studio;
  return (
    <article class="job" data-state={job.state}>
      <header class="job-head">
        <div>
          <h1>{note?.target || (entry ? titled(entry.title, entry.id).name : job.method)}</h1>
          <p class="facts">
            <span>{entry ? titled(entry.title, entry.id).name : job.method}</span>
            <span>{ago(job.created_at)}</span>
            {note?.source && <span>was: {note.source}</span>}
            {job.batch && <a href={`#/batches/${job.batch.id}`}>its batch</a>}
          </p>
        </div>
        <Actions job={job} fail={fail} />
      </header>
      {job.error && job.state !== "canceled" && <Failure job={job} />}
      {job.warnings.map((warning) => (
        <p class="notice warn" key={warning.code}>
          {warning.message}
        </p>
      ))}
      {job.state === "succeeded" && <Compare key={job.id} job={job} together={together} fail={fail} />}
      <Preview job={job} />
      <Progress job={job} channel={channel} />
      <Facts job={job} />
      <Receipt job={job} />
      <Logs job={job} />
    </article>
  );
}

function Empty({ text }: { text: string }) {
  return (
    <div class="empty">
      <h1 class="hidden">Job</h1>
      <p role="status">{text}</p>
      <a class="button" href="#/jobs">
        All jobs
      </a>
    </div>
  );
}

function Actions({ job, fail }: { job: Job; fail: (error: unknown) => void }) {
  const [asked, setAsked] = useState(false);
  const stop = () => {
    setAsked(true);
    api.cancel(job.id).catch((error) => {
      setAsked(false);
      fail(error);
    });
  };
  const again = () => api.retry(job.id).then((next) => (location.hash = `#/jobs/${next.id}`), fail);
  const remove = () => {
    if (confirm("Delete this job and its result?")) api.remove(job.id).then(() => (location.hash = "#/jobs"), fail);
  };
  return (
    <div class="buttons">
      {STOPPABLE.includes(job.state) && (
        <button type="button" class="danger" onClick={stop} disabled={asked}>
          {asked ? "Cancelling…" : "Cancel"}
        </button>
      )}
      {AGAIN.includes(job.state) && (
        <button type="button" class={job.error?.retryable ? "primary" : ""} onClick={again}>
          Retry
        </button>
      )}
      {job.metadata.studio && (
        <a class="button" href={`#/new?from=${job.id}`}>
          Change and edit again
        </a>
      )}
      {ended(job) && (
        <button type="button" onClick={remove}>
          Delete
        </button>
      )}
    </div>
  );
}

/** What to do, by who can mend an error, where its code says nothing better. */
const MENDED: Record<string, string> = {
  caller: "Change the clip or the parameters, then edit again.",
  operator: "Whoever runs this service can mend it.",
};

function Failure({ job }: { job: Job }) {
  const error = job.error;
  const [hint, setHint] = useState(error?.hint ?? "");
  useEffect(() => {
    if (!error || error.hint) return;
    api.code(error.code).then((known) => setHint(known.hint ?? MENDED[known.fixed_by] ?? ""), () => undefined);
  }, [error?.code]);
  if (!error) return null;
  return (
    <div class="notice bad" role="alert">
      <h2>{error.title}</h2>
      {error.detail && <p>{error.detail}</p>}
      {hint && <p class="hint">{hint.charAt(0).toUpperCase() + hint.slice(1)}</p>}
      {error.errors.map((entry) => (
        <p key={entry.pointer}>
          {spoken(entry.pointer?.split("/").pop() ?? "")}: {entry.message}
        </p>
      ))}
      <p class="quiet">
        {error.code}
        {error.stage && ` · in ${stageName(error.stage).toLowerCase()}`}
        {` · ${error.retryable ? "worth a retry" : "a retry would fail the same way"}`}
        {error.log_id && ` · log ${error.log_id}`}
      </p>
    </div>
  );
}

const WORDS: Record<string, string> = {
  accepted: "Accepted",
  queued: "Waiting",
  running: "Running",
  finalizing: "Storing the result",
  canceling: "Cancelling",
  succeeded: "Done",
  failed: "Failed",
  canceled: "Cancelled",
  expired: "Expired",
};
export const stateName = (state: string): string => WORDS[state] ?? state;

function waiting(job: Job): string {
  if (job.state !== "queued") return "";
  if (job.queue.reason) return `held back: ${job.queue.reason.replace(/_/g, " ")}`;
  const place = job.queue.position > 1 ? `${job.queue.position - 1} before it` : "next in line";
  const start = job.eta.start ? (Date.parse(job.eta.start) - Date.now()) / 1000 : 0;
  return start > 1 ? `${place}, starts in about ${seconds(start)}` : place;
}

function left(job: Job): string {
  if (ended(job) || !job.eta.finish) return "";
  const rest = (Date.parse(job.eta.finish) - Date.now()) / 1000;
  const late = job.eta.p90_finish ? (Date.parse(job.eta.p90_finish) - Date.now()) / 1000 : 0;
  if (rest <= 1) return "nearly done";
  return `about ${seconds(rest)} ${job.state === "queued" ? "until it is done" : "left"}${late > 1.2 * rest ? `, at most ${seconds(late)}` : ""}`;
}

function Progress({ job, channel }: { job: Job; channel: Channel }) {
  const saved = job.progress.stages.reduce((sum, stage) => sum + (stage.saved_seconds ?? 0), 0);
  return (
    <section class="panel progress" aria-label="Progress">
      <div class="progress-head">
        <p class="state" role="status">
          <span class={`dot ${job.state}`} aria-hidden="true" /> {stateName(job.state)}
          {waiting(job) && <span class="quiet"> · {waiting(job)}</span>}
        </p>
        <p class="quiet">{[left(job), CHANNELS[channel]].filter(Boolean).join(" · ")}</p>
      </div>
      {!ended(job) && <progress aria-label="Whole job" max={1} value={job.state === "queued" ? 0 : job.progress.fraction} />}
      <ol class="stages">
        {job.progress.stages.map((stage) => (
          <StageRow key={stage.name} stage={stage} over={ended(job)} broke={job.state === "failed" && job.error?.stage === stage.name} />
        ))}
      </ol>
      {(saved > 0 || job.usage.saved_frame_evals > 0) && (
        <p class="notice good">
          The cache saved {job.usage.saved_frame_evals > 0 && `${count(job.usage.saved_frame_evals)} frame evaluations`}
          {saved > 0 && job.usage.saved_frame_evals > 0 && ", "}
          {saved > 0 && `about ${seconds(saved)}`}.
        </p>
      )}
    </section>
  );
}

function stageWord(stage: Stage, over: boolean, broke: boolean): string {
  if (broke) return "failed here";
  if (stage.cache === "hit") return "from the cache";
  if (stage.state === "done" || stage.state === "skipped") return stage.state;
  if (over) return stage.state === "running" ? "stopped here" : "not reached";
  return stage.state === "running" ? "running" : "to come";
}

function StageRow({ stage, over, broke }: { stage: Stage; over: boolean; broke: boolean }) {
  const running = stage.state === "running" && !over;
  const cached = stage.cache === "hit";
  const word = stageWord(stage, over, broke);
  const look = broke ? "broke" : over && stage.state === "running" ? "pending" : stage.state;
  return (
    <li class={`stage ${look} ${cached ? "cached" : ""}`} data-stage={stage.name} aria-current={running ? "step" : undefined}>
      <span class="mark" aria-hidden="true" />
      <span class="stage-name">{stageName(stage.name)}</span>
      <span class="stage-does">{STAGES[stage.name]?.does}</span>
      <span class="stage-word">
        {running && stage.steps ? `step ${stage.step ?? 0} of ${stage.steps}` : word}
        {stage.state === "done" && stage.seconds !== null && !cached && ` · ${seconds(stage.seconds)}`}
      </span>
      {running && stage.steps ? <progress aria-label={stageName(stage.name)} max={stage.steps} value={stage.step ?? 0} /> : null}
    </li>
  );
}

function Facts({ job }: { job: Job }) {
  const rows: [string, string][] = [["Job", job.id]];
  if (job.placement) rows.push(["Ran on", [job.placement.worker, job.placement.device].filter(Boolean).join(" · ")]);
  if (job.placement?.checkpoint) rows.push(["Checkpoint", job.placement.checkpoint]);
  if (job.attempts.length > 1) rows.push(["Attempts", job.attempts.map((attempt) => (attempt.ended ?? "running").replace(/_/g, " ")).join(", ")]);
  if (job.usage.wall_seconds) rows.push(["Took", `${seconds(job.usage.wall_seconds)}, after ${seconds(job.usage.queue_seconds)} in the queue`]);
  if (job.usage.frame_evals) rows.push(["Work", `${count(job.usage.frame_evals)} frame evaluations`]);
  const given = Object.entries(job.metadata.studio?.params ?? {});
  if (given.length) rows.push(["Set", given.map(([name, value]) => `${spoken(name)} ${JSON.stringify(value)}`).join(", ")]);
  return (
    <details class="panel receipt">
      <summary>Details</summary>
      <dl>
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </details>
  );
}
