// A plugin in AssemblyScript: it greets whoever the input names, in the words of
// /data/greeting.txt, and counts the greetings. It needs read_file on that file,
// kv_get, kv_put and log_write.

import { Code, Status, input, kvGet, kvPut, log, output, readFile, refuse, text, utf8 } from "@forgeone/sdk/assembly";

export { forge_abi } from "@forgeone/sdk/assembly";

export function greet(inputLength: u32): u32 {
  const name = text(input());
  let greeting = "hello"; // where it may not look: nothing happened
  const read = readFile("/data/greeting.txt");
  if (read.status == Status.Failure) return refuse(read);
  if (read.ok) greeting = read.text.trimEnd();

  const count = kvGet("greetings");
  const first = count.status == Status.Failure && count.code == Code.NotFound;
  if (!count.ok && !first) return refuse(count);
  const put = kvPut("greetings", utf8((first ? 1 : I32.parseInt(count.text) + 1).toString()));
  if (!put.ok) return refuse(put);
  const logged = log("info", "greeted");
  if (!logged.ok) return refuse(logged);

  output(utf8(greeting + ", " + name + "!"));
  return 0;
}
