/** The frame around the views: navigation by hash, theme, key, and what went wrong. */

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import { NewBatch } from "./batch_new";
import { JobPage } from "./job";
import { Library } from "./library";
import { BatchPage } from "./matrix";
import { NewEdit } from "./new";
import "./style.css";
import "./drawn.css";

const THEMES = ["auto", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

function readTheme(): Theme {
  const kept = localStorage.getItem("refilm.theme");
  return THEMES.find((theme) => theme === kept) ?? "auto";
}

function applyTheme(theme: Theme): void {
  localStorage.setItem("refilm.theme", theme);
  if (theme === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.dataset.theme = theme;
}

const PLACES = [
  ["new", "#/new", "New edit"],
  ["batch", "#/batch", "Batch"],
  ["library", "#/jobs", "Library"],
] as const;

interface Trouble {
  text: string;
  hint: string;
  key: boolean;
}

function troubleOf(error: unknown): Trouble {
  if (error instanceof api.Refusal) return { text: error.message, hint: error.hint, key: error.status === 401 };
  return { text: error instanceof Error ? error.message : String(error), hint: "", key: false };
}

function App() {
  const [route, setRoute] = useState(location.hash);
  const [theme, setTheme] = useState(readTheme());
  const [trouble, setTrouble] = useState<Trouble | null>(null);
  const [round, setRound] = useState(0);
  const [, setNamed] = useState(false); // names of methods are known: everything is drawn again
  useEffect(() => {
    const moved = () => {
      setRoute(location.hash);
      setTrouble(null);
      window.scrollTo(0, 0);
    };
    api.methods().then(() => setNamed(true), () => undefined);
    window.addEventListener("hashchange", moved);
    return () => window.removeEventListener("hashchange", moved);
  }, []);
  const fail = (error: unknown) => setTrouble(troubleOf(error));
  const next = () => {
    const chosen = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "auto";
    applyTheme(chosen);
    setTheme(chosen);
  };
  const again = (key: string) => {
    api.setApiKey(key);
    setTrouble(null);
    setRound(round + 1);
  };
  const place = route.startsWith("#/jobs") || route.startsWith("#/batches") ? "library" : route.startsWith("#/batch") ? "batch" : "new";
  return (
    <>
      <a class="skip" href="#content" onClick={(event) => (event.preventDefault(), document.getElementById("content")?.focus())}>
        Skip to the content
      </a>
      <header class="top">
        <a href="#/new" class="brand">
          <svg viewBox="0 0 32 32" width="26" height="26" aria-hidden="true">
            <rect width="32" height="32" rx="7" fill="#4f46e5" />
            <path d="M6 8h20v16H6zM10 8v16M22 8v16" fill="none" stroke="#fff" stroke-width="2" />
            <path d="m14 12.500 5.500 3.500-5.500 3.500z" fill="#fff" />
          </svg>
          Refilm
        </a>
        <nav aria-label="Views">
          {PLACES.map(([name, address, title]) => (
            <a key={name} href={address} aria-current={place === name ? "page" : undefined}>
              {title}
            </a>
          ))}
        </nav>
        <button type="button" class="theme" onClick={next} title="Change between automatic, light and dark">
          <svg viewBox="0 0 20 20" width="18" height="18" aria-hidden="true">
            <circle cx="10" cy="10" r="7" fill="none" stroke="currentColor" stroke-width="2" />
            <path d="M10 3a7 7 0 0 1 0 14z" fill="currentColor" />
          </svg>
          <span class="theme-name">Theme: {theme}</span>
        </button>
      </header>
      <main id="content" tabIndex={-1} key={round}>
        {trouble && <Trouble trouble={trouble} close={() => setTrouble(null)} again={again} />}
        <View route={route} fail={fail} />
      </main>
    </>
  );
}

function View({ route, fail }: { route: string; fail: (error: unknown) => void }) {
  const [path = "", query = ""] = route.replace(/^#\//, "").split("?");
  const [view, id] = path.split("/");
  const asked = new URLSearchParams(query);
  if (view === "jobs" && id) return <JobPage key={route} id={id} together={asked.get("with")?.split(",") ?? []} fail={fail} />;
  if (view === "batches" && id) return <BatchPage key={id} id={id} fail={fail} />;
  if (view === "jobs") return <Library fail={fail} />;
  const from = asked.get("from") ?? "";
  if (view === "batch") return <NewBatch key={from} from={from} fail={fail} />;
  return <NewEdit key={from} from={from} fail={fail} />;
}

function Trouble({ trouble, close, again }: { trouble: Trouble; close: () => void; again: (key: string) => void }) {
  const [key, setKey] = useState("");
  const send = (event: Event) => {
    event.preventDefault();
    again(key);
  };
  return (
    <div class="notice bad trouble" role="alert">
      <div>
        <p>{trouble.text}</p>
        {trouble.hint && !trouble.key && <p class="hint">{trouble.hint}</p>}
        {trouble.key && (
          <form class="key" onSubmit={send}>
            <label>
              API key <input type="password" autocomplete="off" value={key} onInput={(event) => setKey((event.target as HTMLInputElement).value)} />
            </label>
            <button type="submit" class="primary">
              Use it
            </button>
          </form>
        )}
      </div>
      <button type="button" aria-label="Close the message" onClick={close}>
        ×
      </button>
    </div>
  );
}

applyTheme(readTheme());
const place = document.getElementById("app");
if (place) render(<App />, place);
