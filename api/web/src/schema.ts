/** From a field's schema to the control that edits it. Nothing here knows any method. */

import type { Method, Schema } from "./types";

export type Kind = "prompt" | "text" | "choice" | "switch" | "number" | "chips" | "json" | Widget;
export type Widget = "boxes" | "points" | "trajectory";

const WIDGETS: Widget[] = ["boxes", "points", "trajectory"];

export interface Field {
  name: string;
  kind: Kind;
  schema: Schema; // without the null branch
  nullable: boolean;
  required: boolean;
  stage: string;
  advanced: boolean;
  initial: unknown;
  help: string;
}

/** Parameters that have a place of their own in the request. */
export const WORDS: Record<string, string> = { prompt: "target", source_prompt: "source", negative_prompt: "negative" };
export const TRIM = ["start_seconds", "end_seconds"];

function kindOf(schema: Schema): Kind {
  const widget = WIDGETS.find((name) => name === schema["x-widget"]);
  if (widget) return widget;
  if (schema.enum) return "choice";
  if (schema.type === "boolean") return "switch";
  if (schema.type === "number" || schema.type === "integer") return "number";
  if (schema.type === "string") return schema["x-widget"] === "prompt" ? "prompt" : "text";
  if (schema.type === "array" && !schema.prefixItems && schema.items && single(schema.items)) return "chips";
  return "json";
}

function single(items: Schema): boolean {
  const simple = ["string", "integer", "number"];
  return items.anyOf ? items.anyOf.every(single) : simple.includes(items.type ?? "");
}

export function fieldOf(name: string, whole: Schema, required: boolean): Field {
  const branches = whole.anyOf?.filter((branch) => branch.type !== "null");
  const nullable = (whole.anyOf?.length ?? 0) > (branches?.length ?? 0);
  const { anyOf: _, ...outer } = whole;
  const schema = branches?.length === 1 ? { ...outer, ...branches[0] } : whole;
  return {
    name,
    kind: kindOf(schema),
    schema,
    nullable,
    required,
    stage: whole["x-stage"] ?? "edit",
    advanced: whole["x-advanced"] ?? false,
    initial: whole.default,
    help: whole.description ?? "",
  };
}

const ORDER = ["prepare", "fit", "invert", "edit", "decode"];

/** The stage of this method that reads such a field first: a block may name one that the method leaves out. */
function stageIn({ stages }: Method, stage: string): string {
  return ORDER.slice(ORDER.indexOf(stage)).find((later) => stages.includes(later)) ?? stages[stages.length - 1] ?? stage;
}

export function fieldsOf(method: Method): Field[] {
  const required = method.params.required ?? [];
  return Object.entries(method.params.properties).map(([name, schema]) => {
    const field = fieldOf(name, schema, required.includes(name));
    return { ...field, stage: stageIn(method, field.stage) };
  });
}

/** Fields that the control of another one fills in: the words of its boxes, the frame of its points. */
export const filledBy = (fields: Field[]): Set<string> =>
  new Set(fields.flatMap(({ schema }) => [...(schema["x-labels"] ?? []), ...(schema["x-keyframe"] ? [schema["x-keyframe"]] : [])]));

/** A method takes a trim when it has both ends as parameters. */
export const takesTrim = (method: Method): boolean => TRIM.every((name) => name in method.params.properties);

export interface FileField {
  name: string;
  media: string;
  required: boolean;
  help: string;
  stage: string;
  list: boolean;
  most: number;
  widget: string;
}

/** Inputs beside the clip: one file each, or a list of them. */
export function filesOf(method: Method): FileField[] {
  return Object.entries(method.inputs.properties).flatMap(([name, whole]) => {
    const { schema, help, required, stage } = fieldOf(name, whole, (method.inputs.required ?? []).includes(name));
    const list = schema.type === "array";
    const one = list ? (schema.items ?? {}) : schema;
    if (name === "video" || one.format !== "asset") return [];
    const most = list ? (schema.maxItems ?? 64) : 1;
    return [{ name, media: one["x-media"] ?? "", required, help, stage, list, most, widget: schema["x-widget"] ?? "" }];
  });
}

/** Read what was typed as an item of such a list; undefined when it is none. */
export function itemOf(text: string, items: Schema): string | number | undefined {
  const branches = items.anyOf ?? [items];
  for (const branch of branches) {
    const number = Number(text);
    const fits = branch.type === "integer" ? Number.isInteger(number) : branch.type === "number" && Number.isFinite(number);
    if (fits) return number;
  }
  const words = branches.find((branch) => branch.type === "string" && (!branch.enum || branch.enum.includes(text)));
  return words ? text : undefined;
}

export interface Range {
  low: number;
  high: number;
  step: number;
  bend: number; // 1 is even; more gives small values more room
}

/** The slider of a number, when both ends are known and near enough for one. */
export function rangeOf({ schema, initial }: Field): Range | null {
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  if (low === undefined || high === undefined || high - low > 100_000) return null;
  const whole = schema.type === "integer";
  const step = schema.multipleOf ?? (whole ? 1 : high - low > 10 ? 0.1 : 0.01);
  if (typeof initial === "number" && !whole && initial !== 0 && Math.abs(initial - low) < step) return null;
  const middle = typeof initial === "number" ? initial - low : (high - low) / 2;
  return { low, high, step, bend: middle > 0 && (high - low) / middle > 6 ? 2.5 : 1 };
}

export function complaint(field: Field, value: unknown): string {
  const { schema } = field;
  const empty = value === undefined || value === "" || value === null;
  if (field.required && (empty || (Array.isArray(value) && !value.length))) return "This is needed.";
  if (field.required && Array.isArray(value) && value.includes("")) return "Each of them is needed.";
  if (empty || typeof value !== "number") return "";
  if (schema.minimum !== undefined && value < schema.minimum) return `At least ${schema.minimum}.`;
  if (schema.maximum !== undefined && value > schema.maximum) return `At most ${schema.maximum}.`;
  if (schema.exclusiveMinimum !== undefined && value <= schema.exclusiveMinimum) return `More than ${schema.exclusiveMinimum}.`;
  if (schema.exclusiveMaximum !== undefined && value >= schema.exclusiveMaximum) return `Less than ${schema.exclusiveMaximum}.`;
  if (schema.multipleOf && value % schema.multipleOf) return `A multiple of ${schema.multipleOf}.`;
  return schema.type === "integer" && !Number.isInteger(value) ? "A whole number." : "";
}

/** Steps of a slider whose ends are 0 and this. */
export const POSITIONS = 1000;
export const toPosition = (value: number, { low, high, bend }: Range) => POSITIONS * Math.max(0, (value - low) / (high - low)) ** (1 / bend);
export const toValue = (position: number, { low, high, step, bend }: Range) => {
  const value = low + (high - low) * (position / POSITIONS) ** bend;
  return Math.min(high, Number((low + Math.round((value - low) / step) * step).toFixed(6)));
};
