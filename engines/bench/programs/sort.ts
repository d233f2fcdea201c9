// Quicksort, with insertion sort below 16, of n numbers from xorshift32; numbers
// are compared by a function, as library sorts do. The result is the sum of each
// number times its place, counted from 1.

const CAPACITY = 1 << 16;
const numbers = new StaticArray<i32>(CAPACITY);

type Compare = (a: i32, b: i32) => i32;

function quicksort(low: i32, high: i32, compare: Compare): void {
  while (high - low >= 16) {
    const pivot = unchecked(numbers[(low + high) >>> 1]);
    let i = low, j = high;
    while (i <= j) {
      while (compare(unchecked(numbers[i]), pivot) < 0) i++;
      while (compare(pivot, unchecked(numbers[j])) < 0) j--;
      if (i <= j) {
        const x = unchecked(numbers[i]);
        unchecked((numbers[i++] = numbers[j]));
        unchecked((numbers[j--] = x));
      }
    }
    // The smaller part by a call: the stack stays flat.
    if (j - low < high - i) {
      quicksort(low, j, compare);
      low = i;
    } else {
      quicksort(i, high, compare);
      high = j;
    }
  }
  for (let i = low + 1; i <= high; i++) {
    const x = unchecked(numbers[i]);
    let j = i - 1;
    for (; j >= low && compare(x, unchecked(numbers[j])) < 0; j--) unchecked((numbers[j + 1] = numbers[j]));
    unchecked((numbers[j + 1] = x));
  }
}

export function sort(n: i32): i64 {
  if (<u32>n > <u32>CAPACITY) unreachable();
  let x: u32 = 2463534242;
  for (let i = 0; i < n; i++) {
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    unchecked((numbers[i] = <i32>x));
  }
  quicksort(0, n - 1, (a, b) => i32(a > b) - i32(a < b));
  let sum: i64 = 0;
  for (let i = 0; i < n; i++) sum += <i64>unchecked(numbers[i]) * (i + 1);
  return sum;
}
