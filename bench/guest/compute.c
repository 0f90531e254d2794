/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Integer work. */
#include <stdlib.h>
#include <string.h>
#ifdef WITH_ZLIB
#include <zlib.h>
#endif

#include "guest.h"

/* -- sha: rounds of SHA-256's shape -- */

static uint32_t ror(uint32_t x, unsigned n)
{
	return x >> n | x << (32 - n);
}

static void sha_block(uint32_t h[8], const uint32_t in[16], const uint32_t k[64])
{
	uint32_t w[64], s[8];

	memcpy(w, in, 64);
	for (unsigned i = 16; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) +
		       (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(s, h, 32);
	for (unsigned i = 0; i < 64; i++) {
		uint32_t t1 = s[7] + (ror(s[4], 6) ^ ror(s[4], 11) ^ ror(s[4], 25)) +
			      ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
		uint32_t t2 = (ror(s[0], 2) ^ ror(s[0], 13) ^ ror(s[0], 22)) +
			      ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

		memmove(s + 1, s, 28);
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (unsigned i = 0; i < 8; i++)
		h[i] += s[i];
}

uint64_t row_sha(unsigned work)
{
	uint32_t h[8] = {1, 2, 3, 4, 5, 6, 7, 8}, k[64], in[256], seed = 1;

	for (unsigned i = 0; i < 64; i++)
		k[i] = rnd(&seed) << 8 ^ rnd(&seed);
	for (unsigned i = 0; i < 256; i++)
		in[i] = rnd(&seed);
	for (unsigned i = 0; i < work * 640; i++)
		sha_block(h, in + (i & 15) * 16, k);
	return (uint64_t)h[0] << 32 | h[7];
}

/* -- chacha: 20 rounds -- */

#define QR(a, b, c, d)                                                                                       \
	(x[a] += x[b], x[d] = ror(x[d] ^ x[a], 16), x[c] += x[d], x[b] = ror(x[b] ^ x[c], 20), x[a] += x[b], \
	 x[d] = ror(x[d] ^ x[a], 24), x[c] += x[d], x[b] = ror(x[b] ^ x[c], 25))

uint64_t row_chacha(unsigned work)
{
	uint32_t s[16], x[16], seed = 2;
	uint64_t sum = 0;

	for (unsigned i = 0; i < 16; i++)
		s[i] = rnd(&seed);
	for (unsigned n = 0; n < work * 2700; n++) {
		memcpy(x, s, sizeof(x));
		for (unsigned i = 0; i < 10; i++) {
			QR(0, 4, 8, 12);
			QR(1, 5, 9, 13);
			QR(2, 6, 10, 14);
			QR(3, 7, 11, 15);
			QR(0, 5, 10, 15);
			QR(1, 6, 11, 12);
			QR(2, 7, 8, 13);
			QR(3, 4, 9, 14);
		}
		for (unsigned i = 0; i < 16; i++)
			sum += x[i] + s[i];
		s[12]++;
	}
	return sum;
}

/* -- qsort: libc's, by a comparison function -- */

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

uint64_t row_qsort(unsigned work)
{
	enum { N = 4000 };
	static uint32_t v[N];
	uint64_t sum = 0;
	uint32_t seed = 3;

	for (unsigned n = 0; n < work; n++) {
		for (unsigned i = 0; i < N; i++)
			v[i] = rnd(&seed);
		qsort(v, N, sizeof(*v), compare);
		sum = mix(sum, v[N / 2] ^ v[7]);
	}
	return sum;
}

/* -- sieve -- */

uint64_t row_sieve(unsigned work)
{
	enum { N = 100000 };
	static uint8_t composite[N];
	uint64_t sum = 0;

	for (unsigned n = 0; n < work * 6 / 5; n++) {
		memset(composite, 0, sizeof(composite));
		for (unsigned i = 2; i < N; i++) {
			if (composite[i])
				continue;
			sum += i;
			for (unsigned j = i * 2; j < N; j += i)
				composite[j] = 1;
		}
	}
	return sum;
}

/* -- bytecode: a stack machine with computed jumps, running Collatz chains -- */

enum op { PUSH, DUP, SWAP, ADD, MUL, SHR1, AND1, JZ, JMP, DEC, INC_COUNT, ISONE, HALT };

/* n on the stack: until n is 1, n = n odd ? 3n + 1 : n / 2. */
static const int8_t collatz[] = {
    DUP,       ISONE, JZ,   2,	HALT, 0,				    /* 0 */
    INC_COUNT, DUP,   AND1, JZ, 8,    PUSH, 3, MUL, PUSH, 1, ADD, JMP, -19, /* 6: odd */
    SHR1,      JMP,   -22,						    /* 19: even */
};

static uint64_t interpret(uint64_t n)
{
	static const void *const go[] = {&&push, &&dup, &&swap, &&add, &&mul,	&&shr1, &&and1,
					 &&jz,	 &&jmp, &&dec,	&&inc, &&isone, &&halt};
	uint64_t stack[16], *sp = stack, count = 0;
	const int8_t *pc = collatz;

	*sp = n;
#define NEXT goto *go[(unsigned)*pc++]
	NEXT;
push:
	*++sp = (uint64_t)*pc++;
	NEXT;
dup:
	sp[1] = sp[0];
	sp++;
	NEXT;
swap : {
	uint64_t t = sp[0];

	sp[0] = sp[-1];
	sp[-1] = t;
	NEXT;
}
add:
	sp--;
	sp[0] += sp[1];
	NEXT;
mul:
	sp--;
	sp[0] *= sp[1];
	NEXT;
shr1:
	*sp >>= 1;
	NEXT;
and1:
	*sp &= 1;
	NEXT;
jz:
	pc += *sp-- ? 1 : *pc + 1;
	NEXT;
jmp:
	pc += *pc + 1;
	NEXT;
dec:
	--*sp;
	NEXT;
inc:
	count++;
	NEXT;
isone:
	*sp = *sp == 1;
	NEXT;
halt:
	return count;
}

uint64_t row_bytecode(unsigned work)
{
	uint64_t sum = 0;

	for (unsigned n = 1; n < work * 300; n++)
		sum += interpret(n);
	return sum;
}

/* -- deflate: zlib, gzip's algorithm, both ways -- */

#ifdef WITH_ZLIB
uint64_t row_deflate(unsigned work)
{
	enum { N = 16384 };
	static uint8_t text[N], packed[N * 2], back[N];
	uint32_t seed = 4;
	uint64_t sum = 0;

	for (unsigned i = 0; i < N; i++)
		text[i] =
		    (uint8_t)("the quick brown fox jumps over the lazy dog"[rnd(&seed) % 43] ^ (i >> 11));
	for (unsigned i = 0; i + 64 < N; i += 97)
		memcpy(text + i, text + rnd(&seed) % (N - 40), 37);
	for (unsigned n = 0; n < work; n++) {
		uLongf len = sizeof(packed), size = N;

		text[n % N]++;
		if (compress2(packed, &len, text, N, 6) || uncompress(back, &size, packed, len) ||
		    size != N || memcmp(text, back, N))
			return 0;
		sum = mix(sum, len ^ packed[len / 2]);
	}
	return sum;
}
#endif
