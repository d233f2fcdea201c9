/**
 * Write ForgeOne plugins (ABI forge/1) in AssemblyScript.
 *
 *   import { input, output, utf8 } from "@forgeone/sdk/assembly";
 *   export { forge_abi } from "@forgeone/sdk/assembly";
 *
 *   export function hello(inputLength: u32): u32 {
 *     output(utf8("hello"));
 *     return 0;
 *   }
 *
 * Build it as a reactor that imports nothing but "forge":
 *
 *   asc assembly/index.ts -O --exportStart _initialize --use abort= -o plugin.wasm
 *
 * Every effect is a syscall: Status.Blocked means that nothing happened,
 * Status.Failure that it was allowed and did not work. A syscall that
 * quarantines the plugin does not return. The syscalls, with arguments and
 * results, are in docs/syscalls.md; the ABI is docs/abi.md.
 */

@external("forge", "input") declare function hostInput(ptr: usize, cap: u32): u32;
@external("forge", "output") declare function hostOutput(ptr: usize, len: u32): void;
@external("forge", "fail") declare function hostFail(code: i32, ptr: usize, len: u32): void;
@external("forge", "syscall") declare function hostSyscall(req: usize, reqLen: u32, payload: usize, payloadLen: u32, buf: usize, cap: u32): u64;
@external("forge", "result") declare function hostResult(ptr: usize, cap: u32): u32;

/** The version that is spoken here, 1.0. */
const VERSION: u32 = 1 << 16;

/** Limits of the ABI, in bytes: beyond them the host ends the guest. */
const MAX_NAME = 256;
const MAX_REQUEST = 64 << 10;
const MAX_PAYLOAD = 16 << 20;

/** How much a file moves in one syscall, in bytes. */
const CHUNK = 256 << 10;

/** Answers the host's version with the one to use. A plugin exports it. */
export function forge_abi(host: u32): u32 {
  return host >>> 16 == VERSION >>> 16 && host >= VERSION ? VERSION : 0;
}

/** How a syscall ended. */
export enum Status {
  Success = 0,
  Failure = 1,
  Blocked = 2,
}

/** Codes of failures: Linux errno numbers, on every system. */
export namespace Code {
  export const Permission: i32 = 1;
  export const NotFound: i32 = 2;
  export const Interrupted: i32 = 4;
  export const IO: i32 = 5;
  export const BadHandle: i32 = 9;
  export const Access: i32 = 13;
  export const Exists: i32 = 17;
  export const Invalid: i32 = 22;
  export const TooLarge: i32 = 27;
  export const NoSpace: i32 = 28;
  export const ReadOnly: i32 = 30;
  export const Unsupported: i32 = 95;
  export const Timeout: i32 = 110;
}

/** What became of a syscall. */
export class Answer {
  constructor(
    public status: Status,
    /** Of a success: what the syscall yields. */
    public data: Uint8Array,
    /** Of a failure: a code. */
    public code: i32 = 0,
    /** Of a failure or a refusal: why, for people. */
    public message: string = "",
  ) {}

  get ok(): bool {
    return this.status == Status.Success;
  }

  /** The data as text. */
  get text(): string {
    return text(this.data);
  }
}

/** The bytes of a text. */
export function utf8(s: string): Uint8Array {
  return Uint8Array.wrap(String.UTF8.encode(s));
}

/** The text that bytes are in UTF-8. */
export function text(b: Uint8Array): string {
  return String.UTF8.decodeUnsafe(b.dataStart, b.byteLength);
}

/** The input of the call. */
export function input(): Uint8Array {
  const b = new Uint8Array(<i32>hostInput(0, 0));
  hostInput(b.dataStart, b.byteLength);
  return b;
}

/** Makes b the output of the call; the last one wins. */
export function output(b: Uint8Array): void {
  hostOutput(b.dataStart, b.byteLength);
}

/** Makes the call a failure, and returns the status to return. */
export function fail(code: i32, message: string): u32 {
  const b = utf8(message);
  hostFail(code, b.dataStart, b.byteLength);
  return 1;
}

/** Makes an answer that is not a success the failure of the call, and returns the status to return. */
export function refuse(a: Answer): u32 {
  return fail(a.status == Status.Blocked ? Code.Access : a.code, a.message);
}

const none = new Uint8Array(0);
const room = new Uint8Array(4096); // most results fit

/** A failure of the SDK's own: the host was not asked. */
function invalid(message: string): Answer {
  return new Answer(Status.Failure, none, Code.Invalid, message);
}

/** Asks for an effect by name. Arguments may hold any bytes; payload is for bulk data. */
export function syscall(name: string, args: Uint8Array[] = [], payload: Uint8Array = none, handle: u64 = 0): Answer {
  const n = utf8(name);
  let size = 12 + n.byteLength;
  for (let i = 0; i < args.length; i++) size += 4 + args[i].byteLength;
  if (n.byteLength > MAX_NAME) return invalid("the name of a syscall has at most 256 bytes");
  if (size > MAX_REQUEST || args.length > 0xffff) return invalid("the request is above the limit of 64 KiB; send bulk data as the payload");
  if (payload.byteLength > MAX_PAYLOAD) return invalid("the payload is above the limit of 16 MiB");

  const request = new Uint8Array(size);
  let at = request.dataStart;
  store<u16>(at, <u16>n.byteLength);
  memory.copy(at + 2, n.dataStart, n.byteLength);
  at += 2 + n.byteLength;
  store<u64>(at, handle);
  store<u16>(at + 8, <u16>args.length);
  at += 10;
  for (let i = 0; i < args.length; i++) {
    const a = args[i];
    store<u32>(at, a.byteLength);
    memory.copy(at + 4, a.dataStart, a.byteLength);
    at += 4 + a.byteLength;
  }

  const answer = hostSyscall(request.dataStart, size, payload.dataStart, payload.byteLength, room.dataStart, room.byteLength);
  const status = <u32>(answer >> 32);
  const data = new Uint8Array(<i32>(<u32>answer));
  if (data.byteLength <= room.byteLength) {
    memory.copy(data.dataStart, room.dataStart, data.byteLength);
  } else {
    hostResult(data.dataStart, data.byteLength);
  }
  if (status == <u32>Status.Success) return new Answer(Status.Success, data);
  if (status != <u32>Status.Failure) return new Answer(Status.Blocked, none, 0, text(data));
  if (data.byteLength < 8) return new Answer(Status.Failure, none, Code.IO);
  const length = min(load<u32>(data.dataStart + 4), <u32>data.byteLength - 8);
  return new Answer(Status.Failure, none, load<i32>(data.dataStart), String.UTF8.decodeUnsafe(data.dataStart + 8, length));
}

/** An open file. It is closed with the call, if not before. */
export class File {
  constructor(
    private path: Uint8Array,
    private handle: u64,
  ) {}

  /** Reads at most n bytes; none at the end of the file. */
  read(n: i32 = CHUNK): Answer {
    return syscall("file_read", [this.path, utf8(n.toString())], none, this.handle);
  }

  /** Writes all of b. */
  write(b: Uint8Array): Answer {
    for (let at = 0; at < b.byteLength; ) {
      const part = b.subarray(at, min(at + CHUNK, b.byteLength));
      const a = syscall("file_write", [this.path], part, this.handle);
      if (!a.ok) return a;
      const n = I32.parseInt(a.text);
      if (n <= 0 || n > part.byteLength) return new Answer(Status.Failure, none, Code.IO, "file_write: a short write");
      at += n;
    }
    return new Answer(Status.Success, none);
  }

  close(): Answer {
    return syscall("file_close", [this.path], none, this.handle);
  }
}

/** What became of an open: file is null unless the answer is a success. */
export class Opened {
  constructor(
    public answer: Answer,
    public file: File | null,
  ) {}
}

/** Opens the file at an absolute path; mode is as in C's fopen. */
export function open(path: string, mode: string): Opened {
  const p = utf8(path);
  const a = syscall("file_open", [p, utf8(mode)]);
  if (!a.ok) return new Opened(a, null);
  if (a.data.byteLength != 8) return new Opened(new Answer(Status.Failure, none, Code.IO, "file_open: the kernel did not answer with a handle"), null);
  return new Opened(a, new File(p, load<u64>(a.data.dataStart)));
}

/** Reads a file whole. */
export function readFile(path: string): Answer {
  const opened = open(path, "r");
  const file = opened.file;
  if (!file) return opened.answer;
  let all = none;
  for (;;) {
    const a = file.read();
    if (!a.ok) return a;
    if (a.data.byteLength == 0) break;
    const grown = new Uint8Array(all.byteLength + a.data.byteLength);
    grown.set(all);
    grown.set(a.data, all.byteLength);
    all = grown;
  }
  const closed = file.close();
  return closed.ok ? new Answer(Status.Success, all) : closed;
}

/** Writes a file whole, replacing what was there. */
export function writeFile(path: string, data: Uint8Array): Answer {
  const opened = open(path, "w");
  const file = opened.file;
  if (!file) return opened.answer;
  const a = file.write(data);
  return a.ok ? file.close() : a;
}

/** A value of the plugin's own keys; a failure with Code.NotFound if there is none. */
export function kvGet(key: string): Answer {
  return syscall("kv_get", [utf8(key)]);
}

export function kvPut(key: string, value: Uint8Array): Answer {
  return syscall("kv_put", [utf8(key)], value);
}

/** Writes a line to the kernel's log; level is "debug", "info", "warn" or "error". */
export function log(level: string, message: string): Answer {
  return syscall("log_write", [utf8(level), utf8(message)]);
}

/** At most 65536 random bytes. */
export function random(n: i32): Answer {
  return syscall("random_get", [utf8(n.toString())]);
}
