/** What happened to a job, line by line, and the receipt it can be made again with. */

import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import { bytes, seconds, spoken, stageName } from "./text";
import { ended, type Job, type LogLine } from "./types";

const REFRESH_MS = 2000;

const SAID: Record<string, string> = {
  state: "Job",
  "attempt.begun": "attempt begun",
  "attempt.ended": "attempt ended",
  "stage.begun": "begun",
  "stage.ended": "ended",
  loading: "reading weights",
  preview: "preview",
  "outputs.uploaded": "result stored",
  failed: "failed",
  stopped: "stopped",
};

function fact(name: string, value: string | number | boolean | null): string {
  if (name === "seconds") return seconds(Number(value));
  if (name === "size_bytes") return bytes(Number(value));
  const text = String(value).replace(/_/g, " ");
  if (["state", "outcome", "reason", "code"].includes(name)) return text;
  return name === "cache" ? "from the cache" : `${spoken(name).toLowerCase()} ${text}`;
}

const UNSAID = ["done", "hit", "miss"]; // said by the line itself, or by what it says of the cache

function told({ event, stage, facts }: LogLine): string {
  if (event === "state") return `Job ${String(facts.state).replace(/_/g, " ")}`;
  const words = [stage ? stageName(stage) : "", SAID[event] ?? event.replace(/[._]/g, " ")].filter(Boolean).join(" ");
  const more = Object.entries(facts).flatMap(([name, value]) => (value === null || (name === "outcome" && UNSAID.includes(String(value))) || (name === "cache" && value === "miss") ? [] : [fact(name, value)]));
  return [words.charAt(0).toUpperCase() + words.slice(1), ...more].join(" · ");
}

const clock = (at: string): string => new Date(at).toLocaleTimeString(undefined, { hour12: false });

export function Logs({ job }: { job: Job }) {
  const [open, setOpen] = useState(false);
  const [lines, setLines] = useState<LogLine[] | null>(null);
  const [trouble, setTrouble] = useState("");
  const live = open && !ended(job);
  useEffect(() => {
    if (!open) return;
    let gone = false;
    const read = () =>
      api.logs(job.id).then(
        (found) => gone || setLines(found),
        (error: Error) => gone || setTrouble(error.message),
      );
    void read();
    const timer = live ? setInterval(read, REFRESH_MS) : 0;
    return () => {
      gone = true;
      clearInterval(timer);
    };
  }, [job.id, open, live, live ? 0 : job.version]);
  return (
    <details class="panel receipt" onToggle={(event) => setOpen((event.target as HTMLDetailsElement).open)}>
      <summary>Log</summary>
      {trouble && <p class="wrong">{trouble}</p>}
      {lines && !lines.length && <p class="quiet">Nothing has happened yet.</p>}
      {lines && lines.length > 0 && (
        <ol class="log" tabIndex={0} aria-label="Log, oldest first">
          {lines.map((line) => (
            <li key={line.id} class={line.level}>
              <time dateTime={line.at}>{clock(line.at)}</time>
              <span>
                {told(line)}
                {line.worker && <span class="quiet"> · {line.worker}</span>}
              </span>
            </li>
          ))}
        </ol>
      )}
    </details>
  );
}

interface ReceiptBody {
  seed?: number;
  model?: { checkpoint?: string; digest?: string };
  method?: { id: string; version: number };
  numerics?: Record<string, string | number>;
}

export function Receipt({ job }: { job: Job }) {
  const [body, setBody] = useState<ReceiptBody | null>(null);
  const [file, setFile] = useState("");
  const path = job.receipt;
  if (!path) return null;
  const read = async () => {
    if (file) return;
    const found = await (await api.request(path)).text();
    setFile(URL.createObjectURL(new Blob([found], { type: "application/json" })));
    setBody(JSON.parse(found) as ReceiptBody);
  };
  const rows: [string, string | number | undefined][] = [
    ["Method", body?.method && `${body.method.id}, version ${body.method.version}`],
    ["Seed", body?.seed],
    ["Checkpoint", body?.model?.checkpoint],
    ["Weights", body?.model?.digest],
    ["Numbers", body?.numerics && Object.values(body.numerics).join(", ")],
  ];
  return (
    <details class="panel receipt" onToggle={() => void read().catch(() => undefined)}>
      <summary>Receipt</summary>
      <p class="quiet">All that the result depends on: enough to make it again, here or elsewhere.</p>
      {body && (
        <dl>
          {rows.map(([name, value]) =>
            value === undefined ? null : (
              <div key={name}>
                <dt>{name}</dt>
                <dd>{value}</dd>
              </div>
            ),
          )}
        </dl>
      )}
      {file && (
        <a class="button" href={file} download={`receipt-${job.id}.json`}>
          Save the receipt
        </a>
      )}
    </details>
  );
}
