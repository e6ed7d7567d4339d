/** The same edit as commands to copy. */

import { useState } from "preact/hooks";
import type { EditBody } from "./types";

const shell = (text: string): string => `'${text.replace(/'/g, `'\\''`)}'`;

function curl(body: EditBody, server: string, key: boolean): string {
  const auth = key ? ` \\\n  -H "Authorization: Bearer $REFILM_KEY"` : "";
  return [
    `curl -s ${server}/v1/uploads -T clip.mp4 -X POST -H 'Content-Type: application/octet-stream'${auth}   # -> the asset's id`,
    `curl -s ${server}/v1/edits -H 'Content-Type: application/json'${auth} \\\n  -d ${shell(JSON.stringify(body, null, 1))}`,
    `curl -s ${server}/v1/jobs/JOB_ID -H 'Prefer: wait=60'${auth}                        # -> state, outputs`,
    `curl -s ${server}/v1/jobs/JOB_ID/outputs/video.mp4 -o edited.mp4${auth}`,
  ].join("\n");
}

/** A JSON value as Python writes it. */
export function python(value: unknown): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object")
    return `{${Object.entries(value as object)
      .map(([name, inner]) => `${JSON.stringify(name)}: ${python(inner)}`)
      .join(", ")}}`;
  return JSON.stringify(value);
}

function client(body: EditBody, server: string, key: boolean): string {
  const words: Record<string, string> = { source: "source_prompt", target: "prompt", negative: "negative_prompt" };
  const { trim, files } = body.input;
  const ends = trim ? { start_seconds: trim.start, ...(trim.end === undefined ? {} : { end_seconds: trim.end }) } : {};
  const params = { ...body.params, ...ends };
  const prompts = { target: "", ...body.prompt };
  const lines = [`method=${python(body.method)}`, "video=clip.id"];
  for (const [name, text] of Object.entries(prompts)) lines.push(`${words[name] ?? name}=${python(text)}`);
  if (Object.keys(params).length) lines.push(`params=${python(params)}`);
  if (files) lines.push(`files=${python(Object.fromEntries(Object.entries(files).map(([name, ref]) => [name, Array.isArray(ref) ? ref.map(({ asset }) => asset) : ref.asset])))}`);
  if (body.output) lines.push(`output=${python(body.output)}`);
  return `from api.client import Client

with Client(${python(server)}${key ? ', api_key="…"' : ""}) as client:
    clip = client.upload("clip.mp4")
    job = client.edit(
        ${lines.join(",\n        ")},
    )
    for job in client.watch(job.id):
        print(job.state, job.progress.fraction)
    client.download(job, "edited.mp4")`;
}

export function Code({ body, withKey }: { body: EditBody; withKey: boolean }) {
  const [language, setLanguage] = useState<"curl" | "python">("curl");
  const [copied, setCopied] = useState(false);
  const { metadata: _, ...shown } = body;
  const server = new URL(".", document.baseURI).href.replace(/\/$/, "");
  const text = (language === "curl" ? curl : client)(shown, server, withKey);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return (
    <details class="section code-box">
      <summary>The same as code</summary>
      <div class="buttons">
        {(["curl", "python"] as const).map((name) => (
          <button key={name} type="button" aria-pressed={name === language} onClick={() => setLanguage(name)}>
            {name === "curl" ? "curl" : "Python"}
          </button>
        ))}
        <button type="button" onClick={() => copy().catch(() => undefined)}>
          {copied ? "Copied" : "Copy"}
        </button>
      </div>
      <pre tabIndex={0} aria-label={`The edit in ${language}`}>
        {text}
      </pre>
    </details>
  );
}
