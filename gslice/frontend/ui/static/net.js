// Everything that goes over the network: calls, the key, and streams of events.

const KEY = 'gslice-key';
export const PAGE_HEADER = 'X-Gslice-Page';

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? '',
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

// What a call failed with: HTTP's status (0: nobody answered) and the server's words.
export class Failure extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// Paths are relative to /ui/, so that a proxy may serve the page under a path of its own.
async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let answer;
  try {
    answer = await fetch(path, { cache: 'no-store', ...options, headers });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Failure(0, 'the node does not answer');
  }
  if (!answer.ok) throw new Failure(answer.status, await reason(answer));
  return answer;
}

async function reason(answer) {
  try {
    return (await answer.json()).error ?? answer.statusText;
  } catch {
    return answer.statusText || `HTTP ${answer.status}`;
  }
}

export async function get(path, signal) {
  return (await call(path, { signal })).json();
}

// An inference: the body as it is, and the answer as bytes with its headers.
export async function infer(model, body, jsonBytes, signal) {
  const headers = { 'Content-Type': 'application/octet-stream', 'Inference-Header-Content-Length': String(jsonBytes) };
  const path = `../v2/models/${encodeURIComponent(model)}/infer`;
  const answer = await call(path, { method: 'POST', headers, body, signal });
  return { headers: answer.headers, body: await answer.arrayBuffer() };
}

// A change of the node: yields its stages as they pass.
export async function* order(path, body, signal) {
  const headers = { 'Content-Type': 'application/json', [PAGE_HEADER]: '1' };
  const answer = await call(path, { method: 'POST', headers, body: JSON.stringify(body), signal });
  for await (const [name, data] of events(answer)) {
    if (name === 'stage') yield data;
  }
}

// A stream that goes on: yields [name, data] of each event.
export async function* follow(path, signal) {
  yield* events(await call(path, { signal }));
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      let end;
      while ((end = text.indexOf('\n\n')) >= 0) {
        const event = parse(text.slice(0, end));
        text = text.slice(end + 2);
        if (event) yield event;
      }
    }
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Failure(0, 'the connection broke off');
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  let name = 'message';
  const data = [];
  for (const line of block.split('\n')) {
    if (line.startsWith('event: ')) name = line.slice(7);
    else if (line.startsWith('data: ')) data.push(line.slice(6));
  }
  return data.length ? [name, JSON.parse(data.join('\n'))] : null;
}
