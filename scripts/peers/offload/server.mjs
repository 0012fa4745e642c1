// Node's two ways with a request that computes: on the event loop, or in a pool of worker threads.
//
//   node server.mjs PORT inline|workers
//
// `/` answers at once. `/spin?iterations=N` takes N steps of xorshift32, and answers where they end.

import { createServer } from 'node:http';
import { Worker, isMainThread, parentPort } from 'node:worker_threads';

const WORKERS = 4; // as libuv has by default

function spin(steps) {
  let state = 0x9e3779b9 | 0;
  for (let step = 0; step < steps; step++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
  }
  return `${state >>> 0}\n`;
}

if (isMainThread) {
  const [port, way] = process.argv.slice(2);
  const waiting = [];
  const idle = [];
  const next = () => {
    while (idle.length > 0 && waiting.length > 0) {
      const worker = idle.pop();
      const [steps, answer] = waiting.shift();
      worker.once('message', (text) => {
        idle.push(worker);
        answer(text);
        next();
      });
      worker.postMessage(steps);
    }
  };
  if (way === 'workers') {
    for (let n = 0; n < WORKERS; n++) idle.push(new Worker(new URL(import.meta.url)));
  }
  createServer((request, response) => {
    const url = new URL(request.url, 'http://localhost');
    if (url.pathname !== '/spin') return response.end('Hello, World!\n');
    const steps = Number(url.searchParams.get('iterations'));
    if (way === 'inline') return response.end(spin(steps));
    waiting.push([steps, (text) => response.end(text)]);
    next();
  }).listen(Number(port), '127.0.0.1');
} else {
  parentPort.on('message', (steps) => parentPort.postMessage(spin(steps)));
}
