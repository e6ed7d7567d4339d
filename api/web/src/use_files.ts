/** The files a form has brought, and pictures that are still being painted. */

import { useRef, useState } from "preact/hooks";
import * as api from "./api";
import type { Brought, FileActions } from "./files";
import type { Files } from "./request";
import type { FileField } from "./schema";

const PAUSE_MS = 500;

interface Draft {
  timer: ReturnType<typeof setTimeout>;
  make: () => Promise<Blob[]>;
}

async function bring(blob: Blob, name: string): Promise<Brought> {
  return { asset: await api.upload(blob, name, () => undefined), url: URL.createObjectURL(blob) };
}

interface FormFiles {
  actions: Omit<FileActions, "wrong">;
  put: (files: Files) => void;
  settled: () => Promise<Files>; // after everything painted so far has been sent
}

export function useFiles(refuse: (name: string, why: string) => void): FormFiles {
  const [files, setFiles] = useState<Files>({});
  const now = useRef<Files>({});
  const drafts = useRef(new Map<string, Draft>());
  const sending = useRef(new Set<Promise<void>>());

  const put = (next: Files) => setFiles((now.current = next));
  const guarded = (name: string, work: () => Promise<Brought[]>): Promise<void> => {
    const sent = work().then(
      (brought) => put({ ...now.current, [name]: brought }),
      (error) => refuse(name, error instanceof Error ? error.message : "could not be sent"),
    );
    sending.current.add(sent);
    return sent.finally(() => sending.current.delete(sent));
  };
  const add = (field: FileField, chosen: File[]) =>
    void guarded(field.name, async () => {
      const brought = await Promise.all(chosen.map((file) => bring(file, file.name)));
      return field.list ? [...(now.current[field.name] ?? []), ...brought] : brought;
    });
  const remove = (name: string, index: number) => {
    clearTimeout(drafts.current.get(name)?.timer);
    drafts.current.delete(name);
    put({ ...now.current, [name]: (now.current[name] ?? []).filter((_, other) => other !== index) });
  };
  const send = (name: string): Promise<void> => {
    const draft = drafts.current.get(name);
    if (!draft) return Promise.resolve();
    clearTimeout(draft.timer);
    drafts.current.delete(name);
    return guarded(name, async () => {
      const pictures = await draft.make();
      return Promise.all(pictures.map((picture, index) => bring(picture, `${name}-${index + 1}.png`)));
    });
  };
  const draft = (name: string, make: () => Promise<Blob[]>) => {
    clearTimeout(drafts.current.get(name)?.timer);
    drafts.current.set(name, { timer: setTimeout(() => void send(name), PAUSE_MS), make });
  };
  const settled = async (): Promise<Files> => {
    await Promise.all([...drafts.current.keys()].map(send));
    await Promise.all(sending.current);
    return now.current;
  };
  return { actions: { files, add, remove, draft }, put, settled };
}
