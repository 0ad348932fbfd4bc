// torch.randn of torch's CPU generator (MT19937), so that a seed gives the same clip as `nas generate`.
// From 16 values on, torch computes in float32, here it is float64: the values agree to about 1e-6.

const MASK = (1n << 64n) - 1n;

/** The seed of a generator that depends on all of the given whole numbers, as nas.diffusion.seeding.generator. */
export function seedOf(...numbers) {
  let mixed = 0n;
  for (const number of numbers) {  // splitmix64
    mixed = (mixed + BigInt(number) + 0x9E3779B97F4A7C15n) & MASK;
    mixed = ((mixed ^ (mixed >> 30n)) * 0xBF58476D1CE4E5B9n) & MASK;
    mixed = ((mixed ^ (mixed >> 27n)) * 0x94D049BB133111EBn) & MASK;
    mixed ^= mixed >> 31n;
  }
  return mixed & (MASK >> 1n);
}

const SIZE = 624, SHIFT = 397;

export class Generator {
  /** @param {bigint} seed of torch.Generator().manual_seed; its lower 32 bits are used */
  constructor(seed) {
    this.state = new Uint32Array(SIZE);
    this.state[0] = Number(seed & 0xFFFFFFFFn);
    for (let i = 1; i < SIZE; i++) {
      const previous = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, previous) + i;
    }
    this.next = SIZE;
    this.spare = null;  // the second of a pair of normal numbers, see #normal
  }

  /** Normal numbers as torch.randn(size, generator=this). */
  randn(size) {
    const values = new Float32Array(size);
    if (size < 16) return values.map(() => this.#normal());
    for (let i = 0; i < size; i++) values[i] = this.#uniform24();
    for (let start = 0; start + 16 <= size; start += 16) boxMuller(values, start);
    if (size % 16) {  // the last 16 values are drawn again
      for (let i = size - 16; i < size; i++) values[i] = this.#uniform24();
      boxMuller(values, size - 16);
    }
    return values;
  }

  /** 32 random bits. */
  #bits() {
    const s = this.state;
    if (this.next === SIZE) {
      for (let i = 0; i < SIZE; i++) {
        const y = (s[i] & 0x80000000) | (s[(i + 1) % SIZE] & 0x7FFFFFFF);
        s[i] = s[(i + SHIFT) % SIZE] ^ (y >>> 1) ^ (y & 1 ? 0x9908B0DF : 0);
      }
      this.next = 0;
    }
    let y = s[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9D2C5680;
    y ^= (y << 15) & 0xEFC60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** A number in [0, 1) of 24 bits. */
  #uniform24() {
    return (this.#bits() & 0xFFFFFF) / 2 ** 24;
  }

  /** A number in [0, 1) of 53 bits. */
  #uniform53() {
    const high = this.#bits(), low = this.#bits();
    return ((high & 0x1FFFFF) * 2 ** 32 + low) / 2 ** 53;
  }

  /** One normal number, as torch draws fewer than 16; the other one of the pair is kept for the next call. */
  #normal() {
    if (this.spare !== null) {
      const value = this.spare;
      this.spare = null;
      return value;
    }
    const angle = 2 * Math.PI * this.#uniform53();
    const radius = Math.sqrt(-2 * Math.log1p(-this.#uniform53()));
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
}

/** Turn 16 uniform numbers at `start` into normal ones, in place. */
function boxMuller(values, start) {
  for (let i = start; i < start + 8; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - values[i])), angle = 2 * Math.PI * values[i + 8];
    values[i] = radius * Math.cos(angle);
    values[i + 8] = radius * Math.sin(angle);
  }
}
