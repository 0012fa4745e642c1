// A request handler in AssemblyScript: answers /?name=Ada with "Hello, Ada, from AssemblyScript".
//
// scripts/guests.sh builds it, with the runtime `stub` and no abort function: the module then imports
// nothing. It works on raw memory throughout, since a string of AssemblyScript's is UTF-16 and HTTP's
// are bytes; nothing is allocated, so nothing is left for a collector.

/** The longest request in bytes; the host answers 413 to a longer one. */
const CAPACITY: u32 = 28 * 1024;
/** The longest name that is greeted, in bytes. */
const NAME_BYTES: u32 = 64;

/** The request area: the capacity, a zero, the request. An exported constant is an immutable global. */
export const ringlab_v1: usize = memory.data(8 + 28 * 1024, 8);
/** The record, 24 bytes, and the text that it may point to. */
const record: usize = memory.data(24, 8);
const text: usize = memory.data(128);

// Texts as bytes: `Hello, ` and so on.
const HELLO: usize = memory.data<u8>([72, 101, 108, 108, 111, 44, 32]);
const FROM: usize = memory.data<u8>([
  44, 32, 102, 114, 111, 109, 32, 65, 115, 115, 101, 109, 98, 108, 121, 83, 99, 114, 105, 112, 116, 10,
]); // `, from AssemblyScript` and a line feed
const UNKNOWN: usize = memory.data<u8>([87, 104, 111, 63, 10]); // `Who?` and a line feed
const KEY: usize = memory.data<u8>([110, 97, 109, 101, 61]); // `name=`
const LINES: usize = memory.data<u8>([
  99, 111, 110, 116, 101, 110, 116, 45, 116, 121, 112, 101, 58, 32, 116, 101, 120, 116, 47, 112, 108, 97,
  105, 110, 13, 10,
]); // `content-type: text/plain` CR LF

// Runs once in each instance, as the module's start function.
store<u32>(ringlab_v1, CAPACITY);

function answer(status: u16, body: usize, length: u32): usize {
  store<u16>(record, 0); // kind: an answer
  store<u16>(record, status, 2);
  store<u32>(record, <u32>LINES, 4);
  store<u32>(record, 26, 8);
  store<u32>(record, <u32>body, 12);
  store<u32>(record, length, 16);
  return record;
}

/** Whether the five bytes `name=` are at `at`, and before `end`. */
function isKey(at: usize, end: usize): bool {
  return at + 5 <= end && memory.compare(at, KEY, 5) == 0;
}

export function handle(_length: u32): usize {
  const request = ringlab_v1 + 8;
  // The target: its offset from the request's start, and its length.
  let at = request + load<u32>(request, 12);
  const end = at + load<u32>(request, 16);
  for (; at < end; at++) {
    const byte = load<u8>(at);
    if ((byte == 0x3f /* ? */ || byte == 0x26 /* & */) && isKey(at + 1, end)) break;
  }
  const name = at + 6;
  let length: u32 = 0;
  while (name + length < end && load<u8>(name + length) != 0x26) length++;
  if (length == 0 || length > NAME_BYTES) return answer(400, UNKNOWN, 5);
  memory.copy(text, HELLO, 7);
  memory.copy(text + 7, name, length);
  memory.copy(text + 7 + length, FROM, 22);
  return answer(200, text, 29 + length);
}
