/** A result with its source and with other results of the same clip. */

import { useEffect, useRef, useState } from "preact/hooks";
import * as api from "./api";
import { Player, type Lane } from "./player";
import type { Figures } from "./plot";
import { isPicture, type Job } from "./types";

const METRICS = "metrics.json";
const MOST_OTHERS = 5;

const target = (job: Job): string => job.metadata.studio?.target ?? "";
const words = (job: Job): string => target(job) || api.methodName(job.method);
const full = (job: Job): string => [api.methodName(job.method), target(job)].filter(Boolean).join(" · ");

/** What tells these results apart: their methods, their words, or both. */
function telling(jobs: Job[]): (job: Job) => string {
  if (new Set(jobs.map(target)).size === 1) return (job) => api.methodName(job.method);
  return new Set(jobs.map(({ method }) => method)).size === 1 ? words : full;
}

async function figures(job: Job): Promise<Figures | null> {
  const output = job.outputs.find(({ name }) => name === METRICS);
  if (!output) return null;
  return (await api.request(output.url)).json() as Promise<Figures>;
}

async function source(job: Job): Promise<Lane | null> {
  const note = job.metadata.studio;
  if (!note) return null;
  return { id: "source", url: await api.media(`v1/assets/${note.video}/content`), name: "Source", offset: note.start, figures: null };
}

async function result(job: Job): Promise<Lane | null> {
  const output = job.outputs.find(isPicture);
  if (!output) return null;
  const [url, measured] = await Promise.all([api.media(output.url), figures(job).catch(() => null)]);
  return { id: job.id, url, name: words(job), offset: 0, figures: measured };
}

/** Succeeded jobs of the same clip, those of the same words first: other methods' answers to the same wish. */
async function siblings(job: Job): Promise<Job[]> {
  const note = job.metadata.studio;
  if (!note) return [];
  const [page, batch] = await Promise.all([api.jobs({ states: ["succeeded"], limit: 100 }), job.batch ? api.jobs({ states: ["succeeded"], batch: job.batch.id, limit: 200 }) : null]);
  const all = new Map([...page.data, ...(batch?.data ?? [])].map((other) => [other.id, other]));
  const found = [...all.values()].filter((other) => other.id !== job.id && other.metadata.studio?.video === note.video);
  const same = (other: Job): number => Number(other.metadata.studio?.target === note.target);
  return found.sort((a, b) => same(b) - same(a));
}

interface Props {
  job: Job;
  together: string[];
  fail: (error: unknown) => void;
}

export function Compare({ job, together, fail }: Props) {
  const [others, setOthers] = useState<Job[]>([]);
  const [lanes, setLanes] = useState<Record<string, Lane>>({});
  const [chosen, setChosen] = useState<string[]>(["source", ...together]);
  const [beside, setBeside] = useState(together.length > 0);
  const urls = useRef<string[]>([]);
  const gone = useRef(false);

  const load = async (id: string, known = others) => {
    const entry = known.find((one) => one.id === id);
    const lane = id === job.id ? await result(job) : id === "source" ? await source(job) : entry ? await result(entry) : null;
    if (!lane) return;
    urls.current.push(lane.url);
    if (gone.current) URL.revokeObjectURL(lane.url);
    else setLanes((known) => ({ ...known, [id]: lane }));
  };
  useEffect(() => {
    void load(job.id).catch(fail);
    load("source").catch(() => setChosen(together)); // the source may have been deleted since
    siblings(job).then(
      (found) => {
        setOthers(found);
        together.forEach((id) => void load(id, found).catch(fail));
      },
      () => undefined,
    );
    return () => {
      gone.current = true;
      urls.current.forEach((url) => URL.revokeObjectURL(url));
    };
  }, [job.id]);

  const pick = (id: string) => {
    if (!lanes[id]) void load(id).catch(fail);
    if (!beside) return setChosen([id]);
    setChosen(chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id].slice(-MOST_OTHERS));
  };
  const spreadOut = (wanted: boolean) => {
    setBeside(wanted);
    if (!wanted) setChosen((all) => all.slice(0, 1));
  };
  const output = job.outputs.find(isPicture);
  const main = lanes[job.id];
  if (!output) return null;
  if (!output.media_type.startsWith("video/")) return main ? <img class="still" src={main.url} alt={words(job)} /> : null;
  const against = chosen.flatMap((id) => lanes[id] ?? []);
  const rivals = against.flatMap((lane) => others.find(({ id }) => id === lane.id) ?? []);
  const tell = rivals.length ? telling([job, ...rivals]) : words;
  const named = (lane: Lane): Lane => {
    const entry = [job, ...rivals].find(({ id }) => id === lane.id);
    return entry ? { ...lane, name: tell(entry) } : lane;
  };
  const shown = main && [main, ...against].map(named);
  const choices = [...(job.metadata.studio ? ["source"] : []), ...others.map(({ id }) => id)];
  return (
    <section class="panel compare" aria-label="Compare">
      {shown ? (
        <Player
          lanes={shown}
          beside={beside}
          setBeside={spreadOut}
          rate={output.fps ?? 8}
          counted={output.frames}
          shape={`${output.width ?? 1} / ${output.height ?? 1}`}
          file={`${job.method}-${job.id}.mp4`}
        />
      ) : (
        <p class="quiet">Fetching the result…</p>
      )}
      {others.length > 0 && (
        <div class="against" role="group" aria-label="Compare with">
          <span class="quiet">Compare with</span>
          {choices.slice(0, 24).map((id) => (
            <button key={id} type="button" class="choice" aria-pressed={chosen.includes(id)} onClick={() => pick(id)}>
              {id === "source" ? "the source" : full(others.find((one) => one.id === id) as Job)}
            </button>
          ))}
        </div>
      )}
    </section>
  );
}
