/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "soak.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 200000, WINDOW = 4096, LONGEST = 18 };

/* A byte of eight flags, then for each flag a literal or (distance, length) in two bytes. */
static size_t pack(const uint8_t *in, size_t n, uint8_t *out)
{
	static int32_t head[65536];
	size_t o = 0, i = 0;
	memset(head, 0xff, sizeof(head));
	while (i < n) {
		size_t flags = o++;
		out[flags] = 0;
		for (int bit = 0; bit < 8 && i < n; bit++) {
			size_t len = 0, from = 0;
			if (i + 2 < n) {
				uint32_t h = (in[i] * 40503u ^ in[i + 1] * 30011u ^ in[i + 2] * 251u) & 65535;
				if (head[h] >= 0 && i - (size_t)head[h] < WINDOW) {
					from = (size_t)head[h];
					while (len < LONGEST && i + len < n && in[from + len] == in[i + len])
						len++;
				}
				head[h] = (int32_t)i;
			}
			if (len < 3) {
				out[o++] = in[i++];
				continue;
			}
			unsigned code = (unsigned)(i - from) << 4 | (unsigned)(len - 3);
			out[flags] |= (uint8_t)(1 << bit);
			out[o++] = (uint8_t)code;
			out[o++] = (uint8_t)(code >> 8);
			i += len;
		}
	}
	return o;
}

static size_t unpack(const uint8_t *in, size_t n, uint8_t *out)
{
	size_t o = 0, i = 0;
	while (i < n) {
		unsigned flags = in[i++];
		for (int bit = 0; bit < 8 && i < n; bit++, flags >>= 1) {
			if (!(flags & 1)) {
				out[o++] = in[i++];
				continue;
			}
			unsigned code = in[i] | in[i + 1] << 8;
			i += 2;
			for (unsigned k = 0; k < (code & 15) + 3; k++, o++)
				out[o] = out[o - (code >> 4)];
		}
	}
	return o;
}

static uint32_t crc32(const uint8_t *p, size_t n)
{
	static uint32_t t[256];
	uint32_t c = ~0u;
	for (uint32_t i = 0; i < 256 && !t[255]; i++) {
		t[i] = i;
		for (int k = 0; k < 8; k++)
			t[i] = t[i] & 1 ? t[i] >> 1 ^ 0xedb88320 : t[i] >> 1;
	}
	while (n--)
		c = t[(c ^ *p++) & 255] ^ c >> 8;
	return ~c;
}

void part_pack(uint64_t seed)
{
	static const char *word[] = {"guest ", "page ", "fault ", "vector ",
				     "table ", "lock ", "count ", "\n"};
	uint8_t *in = malloc(SIZE + 16), *packed = malloc(SIZE * 2), *out = malloc(SIZE + 16);
	struct rng r = {seed * 77};
	size_t n = 0;
	expect(in && packed && out, "malloc");
	while (n < SIZE) {
		uint64_t x = rng_next(&r);
		if (x % 11 == 0) {
			in[n++] = (uint8_t)(x >> 8);
			continue;
		}
		const char *w = word[x >> 20 & 7];
		memcpy(in + n, w, strlen(w));
		n += strlen(w);
	}
	expect(crc32((const uint8_t *)"123456789", 9) == 0xcbf43926, "crc32");
	size_t p = pack(in, n, packed), u = unpack(packed, p, out);
	expect(u == n && !memcmp(in, out, n), "unpacked text");
	expect(p < n * 2 / 3, "packed size");
	printf("packed %zu to %zu crc %08x %08x\n", n, p, crc32(in, n), crc32(packed, p));
	free(in);
	free(packed);
	free(out);
}
