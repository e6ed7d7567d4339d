/** Numbers, names and times as people read them. */

export const STAGES: Record<string, { name: string; does: string }> = {
  fetch: { name: "Fetch", does: "Bring the clip to the worker" },
  prepare: { name: "Prepare", does: "Read frames, resize, encode" },
  fit: { name: "Fit", does: "Tune the network to this clip" },
  invert: { name: "Invert", does: "Find the noise the clip comes from" },
  edit: { name: "Edit", does: "Denoise towards the new words" },
  decode: { name: "Decode", does: "Turn latents into pictures" },
  publish: { name: "Publish", does: "Store the result" },
};

export const stageName = (stage: string): string => STAGES[stage]?.name ?? stage;

/** What changing a field of this stage costs, of a method with these stages. */
export function rerun(stage: string, stages: string[]): string {
  const kept = stages.slice(0, Math.max(0, stages.indexOf(stage)));
  const keeps = kept.length ? `; ${kept.map(stageName).join(" and ").toLowerCase()} ${kept.length > 1 ? "are" : "is"} kept` : "";
  return `Changing this re-runs from ${stageName(stage).toLowerCase()}${keeps}`;
}

export function seconds(value: number): string {
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 90) return `${Math.round(value)} s`;
  const minutes = Math.round(value / 60);
  return minutes < 90 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

export function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB"];
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; unit += 1) value /= 1000;
  return `${unit ? value.toFixed(1) : value} ${units[unit]}`;
}

export function ago(time: string): string {
  const passed = (Date.now() - Date.parse(time)) / 1000;
  if (passed < 60) return "just now";
  if (passed < 3600) return `${Math.floor(passed / 60)} min ago`;
  if (passed < 86_400) return `${Math.floor(passed / 3600)} h ago`;
  return new Date(time).toLocaleDateString(undefined, { day: "numeric", month: "short", year: "numeric" });
}

/** `TokenFlow: edit key frames together` as name and line. */
export function titled(title: string, id: string): { name: string; line: string } {
  const [name, ...rest] = title.split(": ");
  const named = rest.length > 0 && (name?.length ?? 0) < 40;
  const line = named ? rest.join(": ") : title;
  return { name: named ? (name ?? id) : spoken(id), line: line.charAt(0).toUpperCase() + line.slice(1) };
}

/** `num_inference_steps` as words. */
export function spoken(id: string): string {
  const words = id.replace(/^num_/, "").replace(/_/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export const plain = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));

export function count(value: number): string {
  return value.toLocaleString(undefined, { maximumFractionDigits: 0 });
}
