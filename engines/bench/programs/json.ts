// JSON (RFC 8259): n records are written as a document, which is read to a tape
// of values, which is written to a second document. The result is the FNV-1a
// hash (64 bits) of that, or 0 if it is not the same as the first.

const CAPACITY: usize = 1 << 16;
const source = heap.alloc(CAPACITY);
const target = heap.alloc(CAPACITY);
const texts = heap.alloc(CAPACITY); // unescaped
const tape = heap.alloc(CAPACITY * 4);

const NULL: u8 = 0, FALSE: u8 = 1, TRUE: u8 = 2, NUMBER: u8 = 3, TEXT: u8 = 4, LIST: u8 = 5, OBJECT: u8 = 6;

// An entry of the tape is a kind and a length or count (low half), and a number
// or the place of a text (high half).
@unmanaged class Entry {
  kind: u8;
  size: u32;
  bits: u64;
}

let out: usize; // next byte to write
let at: usize; // next byte to read
let text: usize; // next byte of texts
let entry: usize; // next entry of the tape

@inline function put(c: u8): void {
  store<u8>(out++, c);
}

function puts(s: string): void {
  for (let i = 0; i < s.length; i++) put(<u8>s.charCodeAt(i));
}

function putInteger(v: u64): void {
  let digits = 1;
  for (let rest = v / 10; rest > 0; rest /= 10) digits++;
  out += digits;
  for (let i = 1; i <= digits; i++, v /= 10) store<u8>(out - i, <u8>(48 + (v % 10)));
}

// putNumber writes up to three decimals.
function putNumber(v: f64): void {
  if (v < 0) {
    put(45);
    v = -v;
  }
  let thousandths = <u64>(v * 1000 + 0.5);
  putInteger(thousandths / 1000);
  thousandths %= 1000;
  if (thousandths == 0) return;
  put(46);
  for (let unit: u64 = 100; thousandths > 0; unit /= 10) {
    put(<u8>(48 + thousandths / unit));
    thousandths %= unit;
  }
}

function putText(from: usize, size: u32): void {
  put(34);
  for (const end = from + size; from < end; from++) {
    const c = load<u8>(from);
    if (c == 34 || c == 92) {
      put(92);
      put(c);
    } else if (c == 10) {
      put(92);
      put(110);
    } else {
      put(c);
    }
  }
  put(34);
}

function fail(): void {
  unreachable();
}

function skip(): void {
  for (let c = load<u8>(at); c == 32 || c == 10 || c == 13 || c == 9; c = load<u8>(++at)) {}
}

function expect(c: u8): void {
  if (load<u8>(at++) != c) fail();
}

function word(kind: u8, s: string): void {
  for (let i = 0; i < s.length; i++) expect(<u8>s.charCodeAt(i));
  push(kind, 0, 0);
}

function push(kind: u8, size: u32, bits: u64): Entry {
  const e = changetype<Entry>(entry);
  e.kind = kind;
  e.size = size;
  e.bits = bits;
  entry += offsetof<Entry>();
  return e;
}

function readText(): void {
  expect(34);
  const from = text;
  for (let c = load<u8>(at++); c != 34; c = load<u8>(at++)) {
    if (c < 32) fail();
    if (c == 92) {
      c = load<u8>(at++);
      if (c == 110) c = 10;
      else if (c != 34 && c != 92) fail();
    }
    store<u8>(text++, c);
  }
  push(TEXT, <u32>(text - from), from);
}

@inline function isDigit(c: u8): bool {
  return c >= 48 && c <= 57;
}

function readNumber(): void {
  const negative = load<u8>(at) == 45;
  if (negative) at++;
  let v: f64 = 0, scale: f64 = 1;
  if (!isDigit(load<u8>(at))) fail();
  for (let c = load<u8>(at); isDigit(c); c = load<u8>(++at)) v = v * 10 + (c - 48);
  if (load<u8>(at) == 46) {
    for (let c = load<u8>(++at); isDigit(c); c = load<u8>(++at)) {
      v = v * 10 + (c - 48);
      scale *= 10;
    }
  }
  push(NUMBER, 0, reinterpret<u64>(negative ? -v / scale : v / scale));
}

function readMembers(kind: u8, close: u8): void {
  at++;
  const head = push(kind, 0, 0);
  skip();
  if (load<u8>(at) == close) {
    at++;
    return;
  }
  for (;;) {
    if (kind == OBJECT) {
      skip();
      readText();
      skip();
      expect(58);
    }
    readValue();
    head.size++;
    skip();
    if (load<u8>(at) != 44) break;
    at++;
  }
  expect(close);
}

function readValue(): void {
  skip();
  switch (load<u8>(at)) {
    case 123: readMembers(OBJECT, 125); break;
    case 91: readMembers(LIST, 93); break;
    case 34: readText(); break;
    case 116: word(TRUE, "true"); break;
    case 102: word(FALSE, "false"); break;
    case 110: word(NULL, "null"); break;
    default: readNumber();
  }
}

function writeValue(): void {
  const e = changetype<Entry>(entry);
  entry += offsetof<Entry>();
  switch (e.kind) {
    case NULL: puts("null"); break;
    case FALSE: puts("false"); break;
    case TRUE: puts("true"); break;
    case NUMBER: putNumber(reinterpret<f64>(e.bits)); break;
    case TEXT: putText(<usize>e.bits, e.size); break;
    default: {
      const object = e.kind == OBJECT;
      put(object ? 123 : 91);
      for (let i: u32 = 0; i < e.size; i++) {
        if (i > 0) put(44);
        if (object) {
          writeValue();
          put(58);
        }
        writeValue();
      }
      put(object ? 125 : 93);
    }
  }
}

function record(i: i32): void {
  puts('{"id":');
  putInteger(i);
  puts(',"name":"item \\"');
  putInteger(i * 7919 % 1000);
  puts('\\"\\n","price":');
  putNumber(<f64>(i * 104729 % 100000) / 1000);
  puts(',"change":-');
  putInteger(i % 90 + 1);
  puts(i & 1 ? ',"stock":true' : ',"stock":false');
  puts(',"tags":["red","green",[],{}],"parent":null,"place":{"x":');
  putInteger(i * i % 977);
  puts(',"y":');
  putInteger(i % 31);
  puts("}}");
}

export function json(n: i32): u64 {
  if (<u32>n > 300) unreachable(); // 190 bytes and 40 entries of 16 bytes each
  out = source;
  put(91);
  for (let i = 0; i < n; i++) {
    if (i > 0) put(44);
    record(i);
  }
  put(93);
  const size = out - source;
  put(0);

  at = source;
  text = texts;
  entry = tape;
  readValue();
  if (at != source + size) fail();

  out = target;
  entry = tape;
  writeValue();
  if (out - target != size || memory.compare(source, target, size) != 0) return 0;
  let hash: u64 = 0xcbf29ce484222325;
  for (let i: usize = 0; i < size; i++) hash = (hash ^ load<u8>(target + i)) * 0x100000001b3;
  return hash;
}
