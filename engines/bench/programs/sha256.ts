// SHA-256 (FIPS 180-4) of n bytes, i*31+7 each; the result is the digest's first
// eight bytes, big-endian.

const K: StaticArray<u32> = [
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];
const W = new StaticArray<u32>(64);
const H = new StaticArray<u32>(8);
const CAPACITY: u32 = 1 << 20;
const message = heap.alloc(CAPACITY);

function block(at: usize): void {
  for (let i = 0; i < 16; i++) unchecked((W[i] = bswap(load<u32>(at + (<usize>i << 2)))));
  for (let i = 16; i < 64; i++) {
    const x = unchecked(W[i - 15]), y = unchecked(W[i - 2]);
    const s0 = rotr(x, 7) ^ rotr(x, 18) ^ (x >> 3);
    const s1 = rotr(y, 17) ^ rotr(y, 19) ^ (y >> 10);
    unchecked((W[i] = W[i - 16] + s0 + W[i - 7] + s1));
  }
  let a = unchecked(H[0]), b = unchecked(H[1]), c = unchecked(H[2]), d = unchecked(H[3]);
  let e = unchecked(H[4]), f = unchecked(H[5]), g = unchecked(H[6]), h = unchecked(H[7]);
  for (let i = 0; i < 64; i++) {
    const t1 = h + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + unchecked(K[i]) + unchecked(W[i]);
    const t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g; g = f; f = e; e = d + t1;
    d = c; c = b; b = a; a = t1 + t2;
  }
  unchecked((H[0] += a)); unchecked((H[1] += b)); unchecked((H[2] += c)); unchecked((H[3] += d));
  unchecked((H[4] += e)); unchecked((H[5] += f)); unchecked((H[6] += g)); unchecked((H[7] += h));
}

export function sha256(n: u32): u64 {
  if (n > CAPACITY - 72) unreachable();
  for (let i: u32 = 0; i < n; i++) store<u8>(message + i, <u8>(i * 31 + 7));
  const padded = (n + 72) & ~63;
  memory.fill(message + n, 0, padded - n);
  store<u8>(message + n, 0x80);
  store<u64>(message + padded - 8, bswap(<u64>n << 3));
  const init: StaticArray<u32> = [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];
  for (let i = 0; i < 8; i++) unchecked((H[i] = init[i]));
  for (let at: u32 = 0; at < padded; at += 64) block(message + at);
  return (<u64>unchecked(H[0]) << 32) | unchecked(H[1]);
}
